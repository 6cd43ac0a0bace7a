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
	listeners.online();
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
