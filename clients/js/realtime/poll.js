import { decodeCursor, encodeCursor } from "./cursor.js";
import { call, wish } from "./http.js";

const SECONDS = 25;

export function poll(env) {
	const { hear, end, connectTimeout } = env;
	const wishes = new Map();
	const places = new Map(decodeCursor(env.cursor).map((at) => [at.topic, at]));
	let closed;
	let changed;
	let placed;
	let interrupt = () => {};

	async function ask(some, seconds) {
		const topics = some.map(({ topic }) => topic);
		const known = [...places.values()].filter(({ topic }) => topics.includes(topic) || !wishes.has(topic));
		const abort = new AbortController();
		const stop = () => abort.abort();
		if (seconds) interrupt = stop;
		const timer = setTimeout(stop, seconds * 1000 + connectTimeout);
		try {
			const query = new URLSearchParams([...some.map(wish), ["cursor", encodeCursor(known)]]);
			const { signal } = abort;
			const answer = await (await call(env, `/poll?${query}&limit=1000&timeout=${seconds}`, { signal })).json();
			placed = answer.topics.length > some.length; // by the login
			if (!changed) take(answer);
		} finally {
			clearTimeout(timer);
		}
	}

	function take({ messages, gaps, topics, cursor }) {
		const positions = decodeCursor(cursor);
		const pushes = [...messages, ...gaps].sort((a, b) => (a.from ?? a.offset) - (b.from ?? b.offset));
		for (const at of positions) places.set(at.topic, at);
		for (const each of topics) {
			const { id, recover, ...command } = wishes.get(each.topic) ?? {};
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
		await ask([], 0);
		hear({ type: "welcome", ping_interval: SECONDS + connectTimeout / 1000, topics: [] });
		while (!closed) {
			const idle = !placed && !wishes.size;
			const seconds = changed || idle ? 0 : SECONDS;
			changed = false;
			try {
				await ask([...wishes.values()], seconds);
				if (idle && !changed) await sleep();
			} catch (error) {
				if (error.code === "LIMIT_EXCEEDED" && !error.retryAfter) changed || refuse([...wishes.values()].pop(), error);
				else if (error.status === 429) await sleep(error.retryAfter);
				else if (changed) continue;
				else if (refused(error) && wishes.size) await sort();
				else throw error;
			}
		}
	}

	const sleep = (s = SECONDS) => new Promise((resolve) => setTimeout((interrupt = resolve), s * 1000));

	const refused = ({ status }) => status < 429 && status !== 401;

	function refuse({ id, topic }, error) {
		wishes.delete(topic);
		places.delete(topic);
		hear({ ...error.toJSON(), type: id ? "error" : "unsubscribed", id, topic });
	}

	async function sort() {
		for (const command of wishes.values()) {
			await ask([command], 0).catch((error) => {
				if (!refused(error)) throw error;
				refuse(command, error);
			});
		}
	}

	function obey({ type, id, topic, commands, ...rest }) {
		if (type === "batch") return commands.forEach(obey);
		const before = wishes.get(topic);
		if (type === "subscribe") {
			if (rest.recover?.epoch) {
				places.set(topic, { topic, ...rest.recover });
				delete rest.recover; // a URL is short
			}
			wishes.set(topic, { id, topic, ...rest });
		} else if (before && type === "update") wishes.set(topic, { ...before, ...rest });
		else if (type === "unsubscribe") {
			wishes.delete(topic);
			places.delete(topic);
		} else {
			const code = type === "update" ? "NOT_SUBSCRIBED" : "UNAVAILABLE";
			return hear({ type: "error", id, code, message: "not possible by polling" });
		}
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
