import { Hub } from "./hub.js";

/** One connection for all tabs: a hub speaks the protocol with them, in a worker or in the tab that leads. */
export function tabs(env) {
	const { url, shared, token, cursor, hear, end, ask } = env;
	const { transports, minDelay, maxDelay, tries, connectTimeout, credentials } = env;
	const name = `realtime ${shared} ${url}`;
	const id = `${name} ${crypto.getRandomValues(new Uint32Array(3))}`;
	const abort = new AbortController();
	let leave;
	const closed = new Promise((resolve) => (leave = resolve));
	let post;
	let known; // whether the hub has answered

	const lock = (which, held) => navigator.locks.request(which, { signal: abort.signal }, held).catch(() => {});
	const options = { transports, minDelay, maxDelay, tries, connectTimeout, credentials };
	const hello = () => post({ type: "hello", lock: id, url, token, cursor, options });
	const take = (push) => {
		known = true;
		if (push.type === "end") end({ token: null });
		else if (push.type !== "token") hear(push);
		else {
			const answer = (found) => post({ ...push, token: found });
			ask(push.reason).then(
				(found = null) => answer(found),
				() => answer(),
			);
		}
	};

	function work() {
		const worker = new SharedWorker(new URL("./worker.js", import.meta.url), { type: "module", name });
		const { port } = worker;
		post = (data) => port.postMessage(data);
		closed.then(() => port.close());
		// Where it cannot be loaded a browser does not always say so.
		const mute = new Promise((resolve) => {
			worker.onerror = resolve;
			setTimeout(resolve, connectTimeout);
		});
		mute.then(() => {
			if (known) return;
			port.close();
			lead();
		});
		port.onmessage = ({ data }) => {
			if (!known) lock(name, () => end({ soon: 1 })); // ours when the worker is gone
			take(data);
		};
		hello();
	}

	function lead() {
		const channel = new BroadcastChannel(name);
		post = (data) => channel.postMessage({ from: id, data });
		closed.then(() => channel.close());
		channel.onmessage = ({ data: { to, data } }) => {
			if (to === id) take(data);
			else if (to === "all") known ? end({ soon: 1 }) : hello(); // another leads
		};
		hello();
		lock(`${name} leader`, () => {
			const hub = new Hub();
			const own = new BroadcastChannel(name); // no channel hears itself
			own.onmessage = ({ data: { from, data } }) =>
				from && hub.hear(from, data, (answer) => own.postMessage({ to: from, data: answer }));
			own.postMessage({ to: "all" });
			return closed.then(() => {
				hub.close();
				own.close();
			});
		});
	}

	// Held for as long as this tab lives, which the hub sees.
	lock(id, () => {
		if (globalThis.SharedWorker && new URL(import.meta.url).origin === location.origin) work();
		else lead();
		return closed;
	});
	return {
		send: (text) => post(text),
		forget: (id) => post(`{"type":"forget","id":${id}}`),
		close() {
			known = true;
			leave();
			abort.abort();
		},
	};
}
