// What takes too long in real time, or needs a server that misbehaves: with timers and sockets of our own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { backoff } from "../realtime/backoff.js";
import { decodeCursor, encodeCursor } from "../realtime/cursor.js";
import { connect } from "../realtime.js";

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
	await wait(150);
	assert.ok(posts > 2);
	assert.equal(heard, 1);
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
