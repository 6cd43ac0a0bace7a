// Tabs in a real browser, where there is one: by a worker, and by a leader. Driven through the DevTools protocol.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { client, serve, until } from "./support.js";

const chromium = ["chromium", "chromium-browser", "google-chrome"].find((name) => {
	try {
		return execFileSync("which", [name]);
	} catch {
		return false;
	}
});

async function browse(t) {
	const profile = mkdtempSync(join(tmpdir(), "browser-"));
	const child = spawn(
		chromium,
		["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", `--user-data-dir=${profile}`],
		{ stdio: ["ignore", "ignore", "pipe"], detached: true },
	);
	t.after(async () => {
		process.kill(-child.pid, "SIGKILL");
		await once(child, "exit");
		rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
	});
	for await (const line of createInterface(child.stderr)) {
		const [, port] = /DevTools listening on ws:\/\/127\.0\.0\.1:(\d+)/.exec(line) ?? [];
		if (port) return `http://127.0.0.1:${port}`;
	}
}

/** The package and an empty page, from an origin of their own. */
async function site(t) {
	const server = http.createServer(({ url }, response) => {
		const { pathname } = new URL(url, "http://x");
		if (!pathname.endsWith(".js")) return response.setHeader("content-type", "text/html").end("<title>a page</title>");
		response.setHeader("content-type", "text/javascript");
		response.end(readFileSync(new URL(`..${pathname}`, import.meta.url)));
	});
	server.listen(0, "127.0.0.1");
	await once(server, "listening");
	t.after(() => (server.closeAllConnections(), server.close()));
	return `http://127.0.0.1:${server.address().port}`;
}

async function openPage(devtools, url) {
	const target = await (await fetch(`${devtools}/json/new?${url}`, { method: "PUT" })).json();
	const socket = new WebSocket(target.webSocketDebuggerUrl);
	await new Promise((resolve) => (socket.onopen = resolve));
	const calls = new Map();
	let id = 0;
	socket.onmessage = ({ data }) => {
		const answer = JSON.parse(data);
		calls.get(answer.id)?.(answer.result);
	};
	const call = (method, params) =>
		new Promise((resolve) => {
			calls.set(++id, resolve);
			socket.send(JSON.stringify({ id, method, params }));
		});
	const run = async (expression) => {
		const { result, exceptionDetails } = await call("Runtime.evaluate", {
			expression: `(async () => { ${expression} })()`,
			awaitPromise: true,
			returnByValue: true,
		});
		assert.equal(exceptionDetails, undefined);
		return result.value;
	};
	const close = () => fetch(`${devtools}/json/close/${target.id}`);
	return { run, close };
}

for (const way of ["worker", "leader"]) {
	test(`tabs by a ${way}: one connection, and a tab that vanishes is forgotten`, { skip: !chromium }, async (t) => {
		const origin = await site(t);
		const { url } = await serve(t, { origins: [origin] });
		const devtools = await browse(t);
		const pages = [];
		for (let n = 0; n < 3; n++) {
			const page = await openPage(devtools, origin);
			await until(() => page.run("return location.protocol === 'http:' && document.readyState === 'complete'"));
			await page.run(`
        ${way === "leader" ? "delete window.SharedWorker;" : ""}
        const { connect } = await import("/realtime.js");
        window.client = connect("${url}", { shared: "test", token: () => "ada", minDelay: 50, maxDelay: 200 });
        window.seen = [];
        window.sub = client.subscribe("room:a");
        sub.on("message", ({ data }) => seen.push(data));
        sub.on("gap", ({ reason }) => seen.push(reason));
        await sub.ready;
      `);
			pages.push(page);
		}
		const connections = await Promise.all(pages.map((page) => page.run("return client.connection")));
		assert.equal(new Set(connections).size, 1);
		const writer = client(t, url);
		const numbers = [];
		for (let n = 1; n <= 200; n++) {
			numbers.push(n);
			await writer.publish("room:a", n);
			if (n === 50) await pages[0].close(); // the leader, where there is one, without a word
			if (n % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 10));
		}
		for (const page of pages.slice(1)) {
			let seen = [];
			await until(async () => (seen = await page.run("return seen")).length >= 200);
			assert.deepEqual(seen, numbers);
		}
		assert.equal((await writer.members("room:a")).count, 1);
	});
}
