import { decodeCursor, encodeCursor } from "./cursor.js";
import { call, wish } from "./http.js";

const SECONDS = 25;

/** What is sent goes into the next poll. */
export function poll(env) {
	const { hear, end, connectTimeout } = env;
	const wishes = new Map();
	const places = new Map(decodeCursor(env.cursor).map((at) => [at.topic, at]));
	let closed;
	let changed;
	let interrupt = () => {};

	async function ask(some, seconds) {
		const topics = some.map(({ topic }) => topic);
		const known = [...places.values()].filter(({ topic }) => topics.includes(topic) || !wishes.has(topic));
		const more = { timeout: seconds, limit: 1000, cursor: encodeCursor(known) };
		const abort = new AbortController();
		const stop = () => abort.abort();
		if (seconds) interrupt = stop;
		const timer = setTimeout(stop, seconds * 1000 + connectTimeout);
		try {
			const query = new URLSearchParams([...some.map(wish), ...Object.entries(more)]);
			const answer = await (await call(env, `/poll?${query}`, { signal: abort.signal })).json();
			if (!closed) take(answer);
		} finally {
			clearTimeout(timer);
		}
	}

	function take({ messages, gaps, topics, cursor }) {
		const positions = decodeCursor(cursor);
		const pushes = [...messages, ...gaps].sort((a, b) => (a.from ?? a.offset) - (b.from ?? b.offset));
		for (const at of positions) places.set(at.topic, at);
		for (const each of topics) {
			const { id, ...command } = wishes.get(each.topic) ?? {};
			const next = pushes.find(({ topic }) => topic === each.topic);
			// The replay begins in this answer, or behind its cursor.
			const start = next ? (next.from ?? next.offset) - 1 : places.get(each.topic).offset;
			if (id) wishes.set(each.topic, command);
			hear({ type: "subscribed", id, ...each, replayed: each.offset - start });
		}
		pushes.forEach(hear);
		hear({ type: "ping", positions });
	}

	async function run() {
		// A login brings topics. Without one 400 tells that the server is there.
		await ask([], 0).catch((error) => {
			if (error.status !== 400) throw error;
		});
		hear({ type: "welcome", ping_interval: SECONDS + connectTimeout / 1000, topics: [] });
		while (!closed) {
			const seconds = changed ? 0 : SECONDS;
			changed = false;
			try {
				await ask([...wishes.values()], seconds);
			} catch (error) {
				if (error.status === 429 || (error.status === 400 && !wishes.size))
					await new Promise((resolve) => setTimeout((interrupt = resolve), (error.retryAfter ?? SECONDS) * 1000));
				else if (refused(error) && wishes.size) await sort();
				else if (!changed) throw error;
			}
		}
	}

	const refused = ({ status }) => (status > 401 && status < 429) || status === 400;

	async function sort() {
		for (const command of wishes.values()) {
			await ask([command], 0).catch((error) => {
				if (!refused(error)) throw error;
				const { id, topic } = command;
				wishes.delete(topic);
				hear({ ...error.toJSON(), type: id ? "error" : "unsubscribed", id, topic });
			});
		}
	}

	function obey({ type, id, topic, commands, ...rest }) {
		if (type === "batch") return commands.forEach(obey);
		const before = wishes.get(topic);
		if (type === "subscribe") wishes.set(topic, { id, topic, ...rest });
		else if (type === "update") wishes.set(topic, { ...before, ...rest });
		else if (type === "unsubscribe") {
			wishes.delete(topic);
			places.delete(topic);
		} else return hear({ type: "error", id, code: "UNAVAILABLE", message: "not possible by polling" });
		if (type !== "subscribe") hear({ type, id });
		changed = true;
		interrupt();
	}

	run().catch((error) => end({ error }));
	return {
		send: (text) => queueMicrotask(() => closed || obey(JSON.parse(text))),
		close() {
			closed = changed = true;
			interrupt();
		},
	};
}
