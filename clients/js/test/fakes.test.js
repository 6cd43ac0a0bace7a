// What takes too long in real time, or needs a server that misbehaves: with timers and sockets of our own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { backoff } from "../realtime/backoff.js";
import { decodeCursor, encodeCursor } from "../realtime/cursor.js";
import { connect } from "../realtime.js";
import { until } from "./support.js";

const settle = async () => {
	for (let n = 0; n < 20; n++) await Promise.resolve();
};

/** A WebSocket that does as the test says; the newest is `Fake.last`. */
class Fake {
	static made = 0;
	sent = [];

	constructor() {
		Fake.made++;
		Fake.last = this;
	}

	say(push) {
		this.onmessage({ data: JSON.stringify(push) });
	}

	welcome(more) {
		this.say({ type: "welcome", connection: "c", ping_interval: 25, topics: [], ...more });
	}

	send(text) {
		this.sent.push(JSON.parse(text));
	}

	close() {
		this.closed = true;
	}
}

const fake = (t, options) => {
	t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1 });
	Fake.made = 0;
	const client = connect("http://x", { transports: ["websocket"], WebSocket: Fake, ...options });
	t.after(() => client.close());
	return client;
};

test("waits grow to a ceiling, with chance from the least on", (t) => {
	const limits = { minDelay: 3000, maxDelay: 30000 };
	for (const [chance, waits] of [
		[0, [0, 3000, 3000, 3000, 3000, 3000]],
		[1, [3000, 6000, 12000, 24000, 30000, 30000]],
	]) {
		t.mock.method(Math, "random", () => chance);
		assert.deepEqual(
			waits.map((_, failures) => backoff(failures, limits)),
			waits,
		);
		t.mock.restoreAll();
	}
});

test("a cursor survives topics with anything in them, and nonsense is refused", () => {
	const positions = [
		{ topic: "room:a!b~c/ü", epoch: "e", offset: 3 },
		{ topic: "global", epoch: "f", offset: 0 },
	];
	assert.deepEqual(decodeCursor(encodeCursor(positions)), positions);
	assert.throws(() => decodeCursor("nonsense"), { code: "BAD_REQUEST" });
});

test("a connection on which nothing is heard is given up after the interval and ten seconds", async (t) => {
	const client = fake(t);
	await settle();
	Fake.last.welcome();
	assert.equal(client.state, "connected");
	t.mock.timers.tick(34_000);
	Fake.last.say({ type: "ping" });
	t.mock.timers.tick(34_000);
	assert.equal(client.state, "connected");
	t.mock.timers.tick(1_000);
	await settle();
	assert.equal(client.state, "reconnecting");
	t.mock.timers.tick(3_000);
	await settle();
	assert.equal(Fake.made, 2);
});

test("a disconnect says when to come back, and not before", async (t) => {
	const client = fake(t);
	await settle();
	Fake.last.welcome();
	t.mock.timers.tick(2000);
	Fake.last.say({ type: "disconnect", code: 4100, reason: "shutting down", reconnect: true, retry_after: 7.3 });
	Fake.last.onclose({ code: 4100 });
	await settle();
	t.mock.timers.tick(7299);
	await settle();
	assert.equal(Fake.made, 1);
	t.mock.timers.tick(1);
	await settle();
	assert.equal(Fake.made, 2);
	assert.equal(client.state, "reconnecting");
});

for (const [code, state] of [
	[1006, "reconnecting"],
	[1009, "failed"],
	[4003, "failed"],
	[4029, "reconnecting"],
	[4101, "reconnecting"],
	[4102, "failed"], // there is nobody to ask for a token
]) {
	test(`after close ${code} the client is ${state}`, async (t) => {
		const client = fake(t);
		await settle();
		Fake.last.welcome();
		Fake.last.onclose({ code });
		await settle();
		assert.equal(client.state, state);
	});
}

test("what is subscribed in one breath goes in one batch, and comes back in one with positions", async (t) => {
	const client = fake(t);
	for (let n = 0; n < 200; n++) client.subscribe(`room:${n}`);
	await settle();
	Fake.last.welcome();
	await settle();
	const [batch] = Fake.last.sent;
	assert.equal(batch.commands.length, 200);
	const replies = batch.commands.map(({ id, topic }) => ({ type: "subscribed", id, topic, epoch: "e", offset: 5 }));
	Fake.last.say({ type: "batch", id: batch.id, replies });
	Fake.last.say({ type: "message", topic: "room:7", offset: 6, data: 1 });
	Fake.last.say({ type: "ping", positions: [{ topic: "room:8", epoch: "e", offset: 9 }] });
	Fake.last.onclose({ code: 1006 });
	await settle();
	t.mock.timers.tick(6000);
	await settle();
	Fake.last.welcome();
	await settle();
	const { commands } = Fake.last.sent[0];
	assert.deepEqual(
		[6, 7, 8].map((n) => commands[n].recover.offset),
		[5, 6, 9],
	);
});

test("batches stay below what the server takes, and what is above is not sent", async (t) => {
	const client = fake(t);
	await settle();
	Fake.last.welcome({ limits: { max_message_bytes: 2000 } });
	for (let n = 0; n < 50; n++) client.subscribe(`room:${n}`, { filter: { "=": ["x", "y".repeat(100)] } });
	const long = client.publish("room:a", "ü".repeat(1500));
	await assert.rejects(long, { code: "PAYLOAD_TOO_LARGE" });
	const sizes = Fake.last.sent.map((command) => JSON.stringify(command).length);
	assert.ok(Math.max(...sizes) <= 2000, `${sizes}`);
	assert.equal(Fake.last.sent.flatMap(({ commands }) => commands).length, 50);
});

test("a thousand calls may wait, and one more is refused", async (t) => {
	const client = fake(t);
	const waiting = Array.from({ length: 1000 }, (_, n) => client.publish("room:a", n).catch(({ code }) => code));
	await assert.rejects(client.publish("room:a", 0), { code: "LIMIT_EXCEEDED" });
	t.mock.timers.tick(10_000);
	assert.deepEqual(new Set(await Promise.all(waiting)), new Set(["TIMEOUT"]));
});

test("without a network nothing is tried, and with it again soon", async (t) => {
	const listeners = {};
	const before = [globalThis.navigator, globalThis.addEventListener];
	Object.defineProperty(globalThis, "navigator", { value: { onLine: false }, configurable: true });
	globalThis.addEventListener = (event, listener) => (listeners[event] = listener);
	t.after(() => {
		Object.defineProperty(globalThis, "navigator", { value: before[0], configurable: true });
		globalThis.addEventListener = before[1];
	});
	fake(t);
	await settle();
	t.mock.timers.tick(1_000_000);
	await settle();
	assert.equal(Fake.made, 0);
	navigator.onLine = true;
	listeners.online({ type: "online" });
	t.mock.timers.tick(300);
	await settle();
	assert.equal(Fake.made, 1);
});

test("a subscription that is refused for a while is asked for again", async (t) => {
	const client = fake(t);
	const sub = client.subscribe("room:a");
	await settle();
	Fake.last.welcome();
	await settle();
	const { id } = Fake.last.sent[0];
	Fake.last.say({ type: "error", id, code: "RATE_LIMIT_EXCEEDED", message: "slow down", retry_after: 2 });
	t.mock.timers.tick(2000);
	await settle();
	assert.equal(Fake.last.sent[1].topic, "room:a");
	Fake.last.say({ type: "subscribed", id: Fake.last.sent[1].id, topic: "room:a", epoch: "e", offset: 1 });
	assert.equal((await sub.ready).offset, 1);
});

const live = async (client, name) => {
	const sub = client.subscribe(name);
	await settle();
	const { id } = Fake.last.sent.at(-1);
	Fake.last.say({ type: "subscribed", id, topic: name, epoch: "e", offset: 1 });
	return sub;
};

test("the first batch, too, stays below what the server takes", async (t) => {
	const client = fake(t);
	await settle();
	Fake.last.welcome({ limits: { max_message_bytes: 2000 } });
	const over = JSON.stringify({ type: "publish", topic: "room:a", data: "", idempotency_key: "k1", id: 1 }).length;
	for (const idempotencyKey of ["k1", "k2"])
		client.publish("room:a", "a".repeat(998 - over), { idempotencyKey }).catch(() => {});
	await settle();
	for (const command of Fake.last.sent) assert.ok(JSON.stringify(command).length <= 2000);
	assert.equal(Fake.last.sent.length, 2);
});

test("a login that is never answered is given up", async (t) => {
	const client = fake(t, { token: "t", connectTimeout: 500 });
	await settle();
	Fake.last.welcome();
	t.mock.timers.tick(499);
	assert.ok(!Fake.last.closed);
	t.mock.timers.tick(1);
	assert.ok(Fake.last.closed);
	await settle();
	assert.equal(client.state, "connecting");
	t.mock.timers.tick(6000);
	await settle();
	assert.equal(Fake.made, 2);
	Fake.last.welcome();
	Fake.last.say({ type: "auth", id: 0, user: "ada", topics: [] });
	t.mock.timers.tick(1000);
	assert.equal(client.state, "connected");
});

test("a topic that was live and is one too many after a cut is asked for again; a new one ends", async (t) => {
	const client = fake(t);
	await settle();
	Fake.last.welcome();
	const sub = await live(client, "room:a");
	sub.on("ended", (error) => error && assert.fail(error.code));
	Fake.last.onclose({ code: 1006 });
	await settle();
	t.mock.timers.tick(6000);
	await settle();
	Fake.last.welcome();
	await settle();
	const full = { type: "error", code: "LIMIT_EXCEEDED", message: "the room is full" };
	Fake.last.say({ ...full, id: Fake.last.sent[0].id });
	t.mock.timers.tick(6000);
	await settle();
	assert.equal(Fake.last.sent[1].recover.offset, 1);
	const other = client.subscribe("room:b");
	await settle();
	Fake.last.say({ ...full, id: Fake.last.sent[2].id });
	await assert.rejects(other.ready, { code: "LIMIT_EXCEEDED" });
	sub.unsubscribe();
});

test("a hidden page is online again at once, and without a link nothing is connected", async (t) => {
	const listeners = {};
	const before = [globalThis.navigator, globalThis.addEventListener];
	Object.defineProperty(globalThis, "navigator", { value: { onLine: true }, configurable: true });
	globalThis.addEventListener = (event, listener) => (listeners[event] = listener);
	globalThis.document = { hidden: true };
	t.after(() => {
		Object.defineProperty(globalThis, "navigator", { value: before[0], configurable: true });
		globalThis.addEventListener = before[1];
		delete globalThis.document;
	});
	const client = fake(t);
	await settle();
	Fake.last.welcome();
	navigator.onLine = false;
	client.reconnect();
	await settle();
	assert.equal(client.state, "reconnecting");
	listeners.visibilitychange({ type: "visibilitychange" });
	navigator.onLine = true;
	t.mock.timers.tick(300);
	await settle();
	assert.equal(Fake.made, 1);
	listeners.online({ type: "online" });
	t.mock.timers.tick(300);
	await settle();
	assert.equal(Fake.made, 2);
});

test("a queue holds at least one, and a gap of unknown size stays unknown in a bigger one", async (t) => {
	const client = fake(t);
	await settle();
	Fake.last.welcome();
	const sub = client.subscribe("room:a", { queue: 0 });
	await settle();
	Fake.last.say({ type: "subscribed", id: Fake.last.sent[0].id, topic: "room:a", epoch: "e", offset: 1 });
	Fake.last.say({ type: "gap", topic: "room:a", epoch: "e", from: 2, to: 9, count: null, reason: "too_old" });
	Fake.last.say({ type: "message", topic: "room:a", offset: 10 });
	const { value } = await sub[Symbol.asyncIterator]().next();
	assert.deepEqual([value.from, value.to, value.count], [2, 10, null]);
});

const json = (body, status = 200) => new Response(JSON.stringify(body), { status });
const error = (code, status, more) => json({ type: "error", code, message: "no", ...more }, status);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const over = (t, transport, answer, options) => {
	const client = connect("http://x", { transports: [transport], fetch: answer, minDelay: 20, maxDelay: 40, ...options });
	t.after(() => client.close());
	return client;
};

/** Event streams of which the newest is `streams.at(-1)`; what is posted is answered by the test. */
const streaming = (answer) => {
	const streams = [];
	const encode = (push) => new TextEncoder().encode(`data: ${JSON.stringify(push)}\n\n`);
	const fetch = async (url, init) => {
		if (init.method === "POST") return json(await answer(JSON.parse(init.body)));
		let say;
		const body = new ReadableStream({ start: (to) => (say = (push) => to.enqueue(encode(push))) });
		say({ type: "welcome", connection: "c", secret: "s", ping_interval: 25, topics: [] });
		streams.push({ say, query: new URL(url).searchParams, init });
		return new Response(body);
	};
	return { streams, fetch };
};
const subscribed = ({ id, topic }) => ({ type: "subscribed", id, topic, epoch: "e", offset: 5 });

test("sse: reading goes on while posts follow one another without a pause", async (t) => {
	let posts = 0;
	const { streams, fetch } = streaming(async (command) => {
		if (command.type === "subscribe") return subscribed(command);
		await wait(20);
		posts++;
		client.publish("room:a", 1).catch(() => {});
		return { type: "batch", id: command.id, replies: [] };
	});
	const client = over(t, "sse", fetch);
	await wait(20);
	const sub = client.subscribe("room:a");
	let heard = 0;
	sub.on("message", () => heard++);
	await sub.ready;
	for (const n of [1, 2]) client.publish("room:a", n).catch(() => {});
	await wait(5);
	client.publish("room:a", 3).catch(() => {});
	streams[0].say({ type: "message", topic: "room:a", offset: 6 });
	await until(() => posts > 2 && heard === 1);
});

test("sse: a topic that was left and is wanted from a position comes over a new stream", async (t) => {
	const { streams, fetch } = streaming(async (command) => subscribed(command));
	const client = over(t, "sse", fetch);
	await wait(20);
	client.subscribe("room:a").unsubscribe();
	await wait(20);
	await client.subscribe("room:a").ready;
	client.subscribe("room:b", { recover: { last: 1 } });
	await wait(20);
	assert.equal(streams.length, 1); // nothing is lost by these
	const sub = client.subscribe("room:c", { recover: { epoch: "e", offset: 2 } });
	sub.unsubscribe();
	client.subscribe("room:c", { recover: { epoch: "e", offset: 3 } });
	await wait(60);
	assert.equal(streams.length, 2);
});

test("what a proxy answers is not taken for the server's word", async (t) => {
	for (const transport of ["sse", "poll"]) {
		const client = over(t, transport, async () => new Response("<h1>default backend - 404</h1>", { status: 404 }));
		client.subscribe("room:a").on("ended", (error) => error && assert.fail(`${error}`));
		await wait(100);
		assert.equal(client.state, "connecting");
		client.close();
	}
	const own = over(t, "poll", async () => error("PERMISSION_DENIED", 403));
	await wait(20);
	assert.equal(own.state, "failed");
});

test("cookies go along without a token, or as the page wants", async (t) => {
	for (const [options, credentials] of [
		[{}, "include"],
		[{ token: "t" }, "same-origin"],
		[{ credentials: "same-origin" }, "same-origin"],
	]) {
		const { streams, fetch } = streaming();
		over(t, "sse", fetch, options);
		await wait(10);
		assert.equal(streams[0].init.credentials, credentials);
	}
});

/** A poll as the server answers it: at most so many topics. */
const polls = (most) => {
	const asked = [];
	const fetch = async (url, { signal }) => {
		const query = new URL(url).searchParams;
		const wishes = query.getAll("sub").map((text) => JSON.parse(text));
		if (!wishes.length) return json({ messages: [], gaps: [], topics: [], cursor: "" });
		asked.push({ wishes, cursor: query.get("cursor") });
		if (wishes.length > most) return error("LIMIT_EXCEEDED", 429);
		await new Promise((resolve, reject) => {
			signal.onabort = reject;
			setTimeout(resolve, 20);
		});
		const topics = wishes.map(({ topic }) => ({ topic, epoch: "e", offset: 5 }));
		const cursor = topics.map(({ topic }) => `${encodeURIComponent(topic)}!e!5`).join("~");
		return json({ messages: [], gaps: [], topics, cursor });
	};
	return { asked, fetch };
};

test("poll: of too many topics the newest is refused, and the others go on", async (t) => {
	const { fetch } = polls(2);
	const client = over(t, "poll", fetch);
	const [a, b, c] = ["room:a", "room:b", "room:c"].map((name) => client.subscribe(name));
	await assert.rejects(c.ready, { code: "LIMIT_EXCEEDED" });
	await Promise.all([a.ready, b.ready]);
});

test("poll: a position stands in the cursor alone, and a URL that is too long fails nothing", async (t) => {
	const { asked, fetch } = polls(9);
	const client = over(t, "poll", fetch);
	client.subscribe("room:a", { recover: { last: 2 } });
	client.subscribe("room:b", { recover: { epoch: "e", offset: 4 } });
	await wait(100);
	assert.deepEqual(
		asked[0].wishes.map(({ recover }) => recover),
		[{ last: 2 }, undefined],
	);
	assert.equal(asked[0].cursor, "room%3Ab!e!4");
	assert.deepEqual(asked.at(-1).wishes, [{ topic: "room:a" }, { topic: "room:b" }]);
	const long = over(t, "poll", async () => error("BAD_REQUEST", 431));
	await wait(50);
	assert.equal(long.state, "connecting");
});

test("poll: the view of a topic that was left cannot be changed", async (t) => {
	const { asked, fetch } = polls(9);
	const client = over(t, "poll", fetch);
	client.subscribe("room:a");
	const b = client.subscribe("room:b");
	await b.ready;
	b.unsubscribe();
	await assert.rejects(b.update({ fields: ["x"] }), { code: "NOT_SUBSCRIBED" });
	await wait(50);
	assert.equal(asked.at(-1).wishes.length, 1);
});

test("what JSON cannot say is refused alone", async (t) => {
	const client = fake(t);
	await settle();
	Fake.last.welcome();
	const bad = client.publish("room:a", 10n);
	client.subscribe("room:b");
	await assert.rejects(bad, TypeError);
	await settle();
	assert.equal(Fake.last.sent[0].topic, "room:b");
});

test("whatever a token function gives, it is not asked in a storm", async (t) => {
	for (const [token, state] of [
		["", "failed"],
		[undefined, "failed"],
		["short", "reconnecting"],
	]) {
		let asked = 0;
		const client = fake(t, { token: () => (asked++, token) });
		client.subscribe("room:a");
		let socket;
		for (let ms = 0; ms < 2000; ms += 20) {
			await settle();
			if (socket !== Fake.last) {
				socket = Fake.last;
				socket.welcome();
				if (token) socket.say({ type: "auth", id: 0, user: "ada", topics: [] });
				await settle();
				if (token) socket.onclose({ code: 4102 });
				else socket.say({ type: "error", id: socket.sent[0].id, code: "AUTH_REQUIRED", message: "log in" });
			}
			t.mock.timers.tick(20);
		}
		assert.ok(asked < 4, `${asked}`);
		assert.equal(client.state, state);
		client.close();
		t.mock.timers.reset();
	}
});

test("a token that is as near its end as the last is not renewed without a pause", async (t) => {
	let asked = 0;
	fake(t, { token: () => (asked++, "t") });
	await settle();
	Fake.last.welcome();
	Fake.last.say({ type: "auth", id: 0, user: "ada", topics: [] });
	for (let ms = 0; ms < 2000; ms += 10) {
		const { length } = Fake.last.sent;
		if (!ms || Fake.last.answered < length) Fake.last.say({ type: "token_expiring", expires_in: 0 });
		Fake.last.answered = length;
		t.mock.timers.tick(10);
		await settle();
		const { type, id } = Fake.last.sent.at(-1);
		if (type === "auth" && Fake.last.sent.length > length) Fake.last.say({ type: "auth", id, topics: [] });
	}
	assert.ok(asked > 5 && asked < 20, `${asked}`);
});

test("a new topic that is one too many ends, also from a position", async (t) => {
	const client = fake(t);
	const sub = client.subscribe("room:a", { recover: { epoch: "e", offset: 5 } });
	await settle();
	Fake.last.welcome();
	await settle();
	Fake.last.say({ type: "error", id: Fake.last.sent[0].id, code: "LIMIT_EXCEEDED", message: "200 topics" });
	await assert.rejects(sub.ready, { code: "LIMIT_EXCEEDED" });
});

test("a listener of errors may start anew, or close", async (t) => {
	for (const [step, states] of [
		["reconnect", ["failed", "connecting"]],
		["close", ["failed", "closed"]],
	]) {
		const client = fake(t, { tries: 1 });
		const seen = [];
		client.on("state", ({ state }) => seen.push(state));
		client.on("error", () => client[step]());
		await settle();
		Fake.last.onclose({ code: 1006 });
		await settle();
		assert.deepEqual(seen, states);
		client.close();
		t.mock.timers.reset();
	}
});

test("a loop that was not under way when the client failed goes on after a reconnect", async (t) => {
	const client = fake(t, { tries: 1 });
	const sub = client.subscribe("room:a");
	await settle();
	Fake.last.onclose({ code: 1006 });
	await settle();
	assert.equal(client.state, "failed");
	client.reconnect();
	await settle();
	Fake.last.welcome();
	await settle();
	Fake.last.say({ type: "subscribed", id: Fake.last.sent[0].id, topic: "room:a", epoch: "e", offset: 0 });
	Fake.last.say({ type: "message", topic: "room:a", offset: 1, data: 1 });
	const items = sub[Symbol.asyncIterator]();
	assert.equal((await items.next()).value.data, 1);
	const next = items.next();
	Fake.last.say({ type: "message", topic: "room:a", offset: 2, data: 2 });
	assert.equal((await next).value.data, 2);
});

test("one that was left in the tick in which it was taken has ended, beside one that goes on", async (t) => {
	const client = fake(t);
	await settle();
	Fake.last.welcome();
	await live(client, "room:a");
	const sub = client.subscribe("room:a");
	sub.unsubscribe();
	let told = 0;
	sub.on("subscribed", () => told++);
	await settle();
	assert.equal(told, 0);
	assert.equal((await sub[Symbol.asyncIterator]().next()).done, true);
});

test("a clock that is set back hides no silence", async (t) => {
	t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1e12 });
	const client = connect("http://x", { transports: ["websocket"], WebSocket: Fake });
	t.after(() => client.close());
	await settle();
	Fake.last.welcome();
	const now = Date.now;
	t.mock.method(Date, "now", () => now.call(Date) - 3_600_000);
	t.mock.timers.tick(120_000);
	await settle();
	assert.equal(client.state, "reconnecting");
});

test("a call may wait for ever", async (t) => {
	const client = fake(t);
	const published = client.publish("room:a", 1, { timeout: Infinity });
	t.mock.timers.tick(100_000);
	await settle();
	Fake.last.onclose?.({ code: 1006 });
	await settle();
	t.mock.timers.tick(10_000);
	await settle();
	Fake.last.welcome();
	await settle();
	Fake.last.say({ type: "published", id: Fake.last.sent[0].id, topic: "room:a", epoch: "e", offset: 1 });
	assert.equal((await published).offset, 1);
});

test("a topic of the login that is wanted with a view gets it by WebSocket", async (t) => {
	const client = fake(t);
	client.subscribe("user:ada", { fields: ["x"] });
	await settle();
	Fake.last.welcome({ topics: [{ topic: "user:ada", epoch: "e", offset: 1 }] });
	await settle();
	const commands = Fake.last.sent.flatMap((command) => command.commands ?? command);
	assert.deepEqual(
		commands.map(({ type }) => type),
		["unsubscribe", "subscribe"],
	);
	assert.deepEqual(commands[1].fields, ["x"]);
});

test("sse: a line of its own is what the protocol says, not what JavaScript does", async (t) => {
	const { streams, fetch } = streaming(async (command) => subscribed(command));
	const client = over(t, "sse", fetch);
	await wait(20);
	const sub = client.subscribe("room:a");
	const seen = [];
	sub.on("message", ({ data }) => seen.push(data));
	await sub.ready;
	streams[0].say({ type: "message", topic: "room:a", offset: 6, data: "a\u2028b\u2029c" });
	await wait(20);
	assert.deepEqual(seen, ["a\u2028b\u2029c"]);
});

test("sse: what the stream was asked for and is left before it comes is not asked for", async (t) => {
	const asked = [];
	let go;
	const { streams, fetch } = streaming(async (command) => subscribed(command));
	const slow = async (url, init) => {
		if (init.method === "POST") return fetch(url, init);
		asked.push(new URL(url).searchParams.getAll("sub").map((text) => JSON.parse(text)));
		await new Promise((resolve) => (go = resolve));
		return init.signal.aborted ? Promise.reject(init.signal.reason) : fetch(url, init);
	};
	const client = over(t, "sse", slow);
	const one = client.subscribe("room:a");
	await wait(10);
	one.unsubscribe();
	const other = client.subscribe("room:a", { fields: ["price"] });
	await wait(10);
	go();
	await wait(20);
	assert.equal(streams.length, 1);
	assert.deepEqual(asked, [[{ topic: "room:a" }], [{ topic: "room:a", fields: ["price"] }]]);
	assert.equal(client.state, "connected");
	assert.deepEqual(client.placed, []);
	other.unsubscribe();
});

test("sse: the refusal of a topic that was left meanwhile stops nothing", async (t) => {
	let refusals = 0;
	const { fetch } = streaming(async (command) => subscribed(command));
	const strict = async (url, init) => {
		if (!url.includes("sub=")) return fetch(url, init);
		refusals++;
		await wait(20);
		return error("PERMISSION_DENIED", 403);
	};
	const client = over(t, "sse", strict);
	const sub = client.subscribe("room:a");
	await wait(10);
	sub.unsubscribe();
	await wait(100);
	assert.equal(refusals, 1);
	assert.equal(client.state, "connected");
});

test("poll: an answer to what was wanted before is not taken for what is wanted now", async (t) => {
	let late;
	const fetch = async (url, { signal }) => {
		const query = new URL(url).searchParams;
		const wishes = query.getAll("sub").map((text) => JSON.parse(text));
		const answer = { messages: [], gaps: [], topics: [], cursor: "" };
		if (!wishes.length) return json(answer);
		if (query.get("timeout") !== "0")
			return new Promise((resolve, reject) => (signal.onabort = () => reject(signal.reason)));
		if (!late) await new Promise((resolve) => (late = resolve));
		const { last = 0 } = wishes[0].recover ?? {};
		const messages = [1, 2, 3].slice(3 - last).map((offset) => ({ type: "message", topic: "room:a", offset }));
		const topics = [{ topic: "room:a", epoch: "e", offset: 3, recovered: last ? "full" : "none" }];
		return json({ ...answer, messages, topics, cursor: "room%3Aa!e!3" });
	};
	const client = over(t, "poll", fetch);
	await wait(20);
	const one = client.subscribe("room:a");
	await wait(20);
	one.unsubscribe();
	const other = client.subscribe("room:a", { recover: { last: 3 } });
	const seen = [];
	other.on("message", ({ offset }) => seen.push(offset));
	await wait(10);
	late();
	await wait(50);
	assert.deepEqual(seen, [1, 2, 3]);
	assert.deepEqual(client.placed, []);
});

test("poll: a refusal of what was wanted before refuses nothing new", async (t) => {
	let late;
	const fetch = async (url, { signal }) => {
		const wishes = new URL(url).searchParams.getAll("sub").map((text) => JSON.parse(text));
		if (wishes.length > 1) {
			await new Promise((resolve) => (late = resolve));
			return error("LIMIT_EXCEEDED", 429);
		}
		if (wishes.length && !url.endsWith("timeout=0"))
			await new Promise((resolve, reject) => (signal.onabort = () => reject(signal.reason)));
		const topics = wishes.map(({ topic }) => ({ topic, epoch: "e", offset: 5 }));
		return json({ messages: [], gaps: [], topics, cursor: topics.map(({ topic }) => `${topic}!e!5`).join("~") });
	};
	const client = over(t, "poll", fetch);
	const a = client.subscribe("a");
	await a.ready;
	const b = client.subscribe("b");
	await wait(20);
	b.unsubscribe();
	await wait(5);
	late();
	await wait(30);
	a.on("ended", (reason) => reason && assert.fail(`${reason}`));
	assert.ok(a.position);
	assert.throws(() => client.subscribe("a", { fields: ["x"] }), { code: "ALREADY_SUBSCRIBED" });
});
