// A real server as a child process, and what may stand between it and a client.
import { spawn } from "node:child_process";
import { once } from "node:events";
import net from "node:net";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { connect } from "../realtime.js";

const root = fileURLToPath(new URL("../../..", import.meta.url));
const program = fileURLToPath(new URL("server.py", import.meta.url));

/** A server for the length of a test. */
export async function serve(t, settings = {}) {
	const child = spawn(process.env.REALTIME_PYTHON ?? "python3", [program, JSON.stringify(settings)], {
		env: { ...process.env, PYTHONPATH: root },
		stdio: ["ignore", "pipe", process.env.VERBOSE ? "inherit" : "ignore"],
	});
	t.after(() => child.kill("SIGKILL"));
	const [url] = await Promise.race([
		once(createInterface(child.stdout), "line"),
		once(child, "exit").then(() => Promise.reject(new Error("the server did not start; VERBOSE=1 shows why"))),
	]);
	const stop = async (signal) => {
		child.kill(signal);
		await once(child, "exit");
	};
	return { url, port: +new URL(url).port, kill: () => stop("SIGKILL"), stop: () => stop("SIGTERM") };
}

/** A client for the length of a test, that does not wait long. */
export function client(t, url, options = {}) {
	const made = connect(url, { minDelay: 40, maxDelay: 200, connectTimeout: 2000, ...options });
	t.after(() => made.close());
	return made;
}

/** A proxy on TCP: `judge(head)` says what becomes of a connection by its first request. */
export async function proxy(t, port, judge = () => "pass") {
	const pairs = new Set();
	const server = net.createServer((near) => {
		near.on("error", () => {});
		near.once("data", (head) => {
			const fate = judge(head.toString("latin1"));
			if (fate === "cut") return near.destroy();
			if (typeof fate === "object") return near.end(fate.answer);
			const far = net.connect(port, "127.0.0.1");
			const pair = { near, far };
			pairs.add(pair);
			far.on("error", () => {});
			near.on("close", () => (far.destroy(), pairs.delete(pair)));
			far.on("close", () => (near.destroy(), pairs.delete(pair)));
			far.write(head);
			near.pipe(far);
			if (fate === "hold") {
				// A proxy that buffers: the head goes through, the body when it is complete.
				let seen = "";
				far.on("data", (data) => {
					const done = seen.includes("\r\n\r\n");
					seen += data.toString("latin1");
					if (!done) near.write(seen.slice(0, seen.indexOf("\r\n\r\n") + 4));
				});
			} else far.pipe(near);
		});
	});
	server.listen(0, "127.0.0.1");
	await once(server, "listening");
	const cut = () => pairs.forEach(({ near, far }) => (near.destroy(), far.destroy()));
	t.after(() => (cut(), server.close()));
	return { url: `http://127.0.0.1:${server.address().port}`, cut };
}

export const blocked = { answer: "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" };

/** Wait until a condition holds. */
export async function until(condition, ms = 8000) {
	const end = Date.now() + ms;
	while (!(await condition())) {
		if (Date.now() > end) throw new Error(`never came: ${condition}`);
		await new Promise((resolve) => setTimeout(resolve, 5));
	}
}

export const state = (of, wanted) => until(() => of.state === wanted);
