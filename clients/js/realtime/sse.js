import { decodeCursor } from "./cursor.js";
import { call, wish } from "./http.js";

export function sse(env) {
	const { cursor, opener, connectTimeout, hear, heard, end } = env;
	const abort = new AbortController();
	const { signal } = abort;
	let welcome;
	let posted;

	async function read() {
		const query = new URLSearchParams([...(opener ? [wish(opener)] : []), ["cursor", cursor]]);
		const { body } = await call(env, `/sse?${query}`, { signal });
		const reader = body?.pipeThrough?.(new TextDecoderStream()).getReader();
		let rest = "";
		let event = {};
		for (;;) {
			const { value } = (await reader?.read().catch(() => {})) ?? {};
			if (!value || rest.length > 11e5) return end({ next: true });
			heard();
			await posted; // its reply goes before
			const lines = (rest + value).split("\n");
			rest = lines.pop();
			for (const line of lines) {
				const [, name, text] = /^(\w+): ?(.*?)\r?$/s.exec(line) ?? [];
				if (name) event[name] = text;
				else if (!line.trim()) {
					if (event.data) take(JSON.parse(event.data), event.id);
					event = {};
				}
			}
		}
	}

	function take(push, id) {
		if (push.type === "welcome") welcome = push;
		if (push.type === "ping") push.positions = decodeCursor(id);
		hear(push);
	}

	async function post(body) {
		try {
			const headers = { "x-connection-secret": welcome.secret };
			hear(await (await call(env, `/sse/${welcome.connection}`, { method: "POST", headers, body, signal })).json());
		} catch (error) {
			if (!error.status || error.code === "CONNECTION_NOT_FOUND") end();
			else hear({ type: "error", ...error.toJSON(), id: JSON.parse(body).id });
		}
	}

	read().catch((error) => end({ error }));
	return {
		left: new Set(),
		get busy() {
			return posted;
		},
		send(text, { type }) {
			if (type === "request") return void post(text);
			const slow = setTimeout(end, connectTimeout);
			posted = post(text).then(() => {
				clearTimeout(slow);
				posted = undefined;
				env.idle();
			});
		},
		close: () => abort.abort(),
	};
}
