import assert from "node:assert/strict";
import { test } from "node:test";
import { RealtimeError } from "../realtime.js";
import { blocked, client, proxy, serve, state, until } from "./support.js";

for (const transport of ["websocket", "sse", "poll"]) {
	test(`${transport}: history, then live messages, with the view that was asked for`, async (t) => {
		const { url } = await serve(t);
		const writer = client(t, url, { token: "bob" });
		for (let n = 1; n <= 3; n++) await writer.publish("room:a", { n, x: n }, { event: "e", key: "k" });
		const reader = client(t, url, { token: "ada", transports: [transport] });
		const seen = [];
		const all = reader.subscribe("room:a", { recover: { last: 2 } });
		all.on("message", (message) => seen.push(message));
		assert.equal((await all.ready).type, "subscribed");
		const odd = reader.subscribe("room:b", { filter: { "=": ["x", 1] }, fields: ["n"] });
		const odds = [];
		odd.on("message", ({ data }) => odds.push(data));
		await odd.ready;
		assert.equal(reader.transport, transport);
		await writer.publish("room:a", { n: 4 });
		for (let n = 1; n <= 4; n++) await writer.publish("room:b", { n, x: n % 2 });
		await until(() => seen.length === 3 && odds.length === 2);
		assert.deepEqual(
			seen.map(({ offset }) => offset),
			[2, 3, 4],
		);
		assert.deepEqual(odds, [{ n: 1 }, { n: 3 }]);
		assert.equal(all.position.offset, 4);
		assert.match(reader.cursor, /room%3Aa!\w+!4/);
		odd.unsubscribe();
		await writer.publish("room:b", { n: 5, x: 1 });
		await writer.publish("room:a", 5);
		await until(() => seen.length === 4);
		assert.equal(odds.length, 2);
	});
}

test("a thousand messages over transports that are blocked in turn: none lost, none doubled", async (t) => {
	const { url, port } = await serve(t);
	let level = 0; // how much is blocked
	const between = await proxy(t, port, (head) => {
		if (level > 0 && head.startsWith("GET /ws")) return blocked;
		if (level > 1 && head.startsWith("GET /sse")) return "hold";
	});
	const writer = client(t, url);
	const reader = client(t, between.url);
	const seen = [];
	const used = new Set();
	reader.on("state", ({ state, transport }) => state === "connected" && used.add(transport));
	const sub = reader.subscribe("room:a");
	sub.on("message", ({ data }) => seen.push(data));
	sub.on("gap", (gap) => assert.fail(JSON.stringify(gap)));
	await sub.ready;
	for (let n = 1; n <= 1000; n++) {
		if (n === 300 || n === 650) {
			await until(() => used.size > level); // it may still be on its way to the one that is blocked now
			level++;
			between.cut();
		}
		await writer.publish("room:a", n);
		if (n % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 12));
	}
	await until(() => seen.length >= 1000, 20_000);
	assert.deepEqual(
		seen,
		Array.from({ length: 1000 }, (_, n) => n + 1),
	);
	assert.deepEqual([...used], ["websocket", "sse", "poll"]);
});

test("a server that is killed and starts anew: what is gone is told", async (t) => {
	const first = await serve(t);
	const reader = client(t, first.url);
	const events = [];
	const sub = reader.subscribe("room:a");
	sub.on("message", ({ data }) => events.push(data));
	sub.on("gap", ({ from, to, count, reason }) => events.push({ from, to, count, reason }));
	await sub.ready;
	await reader.publish("room:a", "before");
	await until(() => events.length === 1);
	await first.kill();
	await state(reader, "reconnecting");
	const second = await serve(t, { port: first.port });
	const writer = client(t, second.url);
	await writer.publish("room:a", "after");
	await until(() => events.length > 1);
	await reader.publish("room:a", "live");
	await until(() => events.at(-1) === "live");
	assert.equal(events[1].reason, "epoch_changed");
	assert.equal(events[1].count, null);
	assert.ok(events.includes("after") || events[1].to === 1);
});

test("history that is too short: the gap stands in its place, exact", async (t) => {
	const { url, port } = await serve(t);
	let blocking = false;
	const between = await proxy(t, port, () => (blocking ? "cut" : "pass"));
	const [reader, writer] = [client(t, between.url), client(t, url)];
	const sub = reader.subscribe("short:a");
	await sub.ready;
	await writer.publish("short:a", 1);
	const items = sub[Symbol.asyncIterator]();
	assert.equal((await items.next()).value.data, 1);
	blocking = true;
	between.cut();
	for (let n = 2; n <= 6; n++) await writer.publish("short:a", n);
	blocking = false;
	const { value } = await items.next();
	delete value.epoch;
	const expected = { type: "gap", topic: "short:a", from: 2, to: 6, count: 5, reason: "too_old", recoverable: false };
	assert.deepEqual(value, expected);
	await writer.publish("short:a", 7);
	assert.equal((await items.next()).value.data, 7);
});

for (const transport of ["websocket", "sse"]) {
	test(`${transport}: a login that is renewed under way is noticed by nobody`, async (t) => {
		const { url } = await serve(t);
		const reasons = [];
		const reader = client(t, url, {
			transports: [transport],
			token: async ({ reason }) => {
				reasons.push(reason);
				return "ada/6"; // the warning comes after the half of it: what is left is for a slow machine
			},
		});
		const states = [];
		reader.on("state", ({ state }) => states.push(state));
		await reader.subscribe("room:a").ready;
		await until(() => reasons.length > 2, 20_000);
		assert.equal(reader.user, "ada");
		assert.deepEqual(states, ["connected"]);
		assert.deepEqual(new Set(reasons.slice(1)), new Set(["expiring"]));
	});
}

test("a login that expires without anybody to renew it fails", async (t) => {
	const { url } = await serve(t);
	const reader = client(t, url, { token: "ada/0.3" });
	const changes = [];
	reader.on("state", (change) => changes.push(change)); // who only looks may find one that is over
	await state(reader, "failed");
	assert.deepEqual(
		changes.map(({ state, error }) => [state, error?.code]),
		[
			["connected", undefined],
			["failed", "TOKEN_EXPIRED"],
		],
	);
});

for (const transport of ["websocket", "sse", "poll"]) {
	test(`${transport}: a login that is refused fails, and says why`, async (t) => {
		const { url } = await serve(t);
		const reader = client(t, url, { transports: [transport], token: "bad" });
		const sub = reader.subscribe("room:a");
		await assert.rejects(sub.ready, (error) => error instanceof RealtimeError && error.code === "AUTH_FAILED");
		assert.equal(reader.state, "failed");
		await assert.rejects(reader.publish("room:a", 1), { code: "AUTH_FAILED" });
	});

	test(`${transport}: a token function is asked again, at once and then with patience`, async (t) => {
		const { url } = await serve(t);
		const reasons = [];
		const token = ({ reason }) => (reasons.push(reason) < 3 ? "bad" : "ada");
		const reader = client(t, url, { transports: [transport], token });
		await state(reader, "connected");
		assert.deepEqual(reasons, ["connect", "AUTH_FAILED", "AUTH_FAILED"]);
	});

	test(`${transport}: a topic that is refused ends, and the others go on`, async (t) => {
		const { url } = await serve(t);
		const reader = client(t, url, { transports: [transport] });
		const bad = reader.subscribe("nothing:here");
		const ended = new Promise((resolve) => bad.on("ended", resolve));
		const good = reader.subscribe("room:a");
		const private_ = reader.subscribe("user:eve");
		await good.ready;
		await assert.rejects(bad.ready, { code: "INVALID_TOPIC" });
		await assert.rejects(private_.ready, { code: "PERMISSION_DENIED" });
		assert.equal((await ended).code, "INVALID_TOPIC");
		assert.equal(reader.state, "connected");
	});

	test(`${transport}: what the login brings is heard, also after a cut`, async (t) => {
		const { url, port } = await serve(t);
		const between = await proxy(t, port);
		const reader = client(t, between.url, { transports: [transport], token: "ada" });
		const teller = client(t, url, { token: "bob" });
		const texts = [];
		reader.on("message", ({ topic, data }) => topic === "user:ada" && texts.push(data.text));
		await state(reader, "connected");
		await until(() => reader.placed.some(({ topic }) => topic === "user:ada"));
		await teller.request("tell", "one");
		await until(() => texts.length === 1);
		between.cut();
		for (const text of ["two", "three"]) await teller.request("tell", text);
		await until(() => texts.length === 3);
		assert.deepEqual(texts, ["one", "two", "three"]);
	});
}

for (const transport of ["websocket", "sse"]) {
	test(`${transport}: a publish goes on over a cut, and arrives once`, async (t) => {
		const { port, url } = await serve(t);
		let eat = true;
		const between = await proxy(t, port);
		const reader = client(t, url);
		const seen = [];
		const sub = reader.subscribe("room:a");
		await sub.ready;
		sub.on("message", ({ data }) => {
			seen.push(data);
			if (eat) between.cut(); // most often before the writer has the reply
			eat = false;
		});
		const writer = client(t, between.url, { transports: [transport], token: "bob" });
		const receipts = await Promise.all([1, 2, 3].map((n) => writer.publish("room:a", n)));
		await writer.publish("room:a", 4);
		await until(() => seen.includes(4));
		assert.deepEqual(seen, [1, 2, 3, 4]);
		assert.deepEqual(
			receipts.map(({ offset }) => offset),
			[1, 2, 3],
		);
	});

	test(`${transport}: requests are answered, time out, are given up and lost`, async (t) => {
		const { port } = await serve(t);
		const between = await proxy(t, port);
		const caller = client(t, between.url, { transports: [transport], token: "ada" });
		assert.deepEqual(await caller.request("echo", { a: [1] }), { a: [1] });
		await assert.rejects(caller.request("nothing"), { code: "UNKNOWN_ACTION" });
		await assert.rejects(caller.request("sleep", 5, { timeout: 50 }), { code: "TIMEOUT" });
		const abort = new AbortController();
		const given = caller.request("sleep", 5, { signal: abort.signal });
		abort.abort(new Error("enough"));
		await assert.rejects(given, /enough/);
		const lost = caller.request("sleep", 5);
		setTimeout(between.cut, 50);
		await assert.rejects(lost, { code: "UNAVAILABLE" });
	});

	test(`${transport}: members, presence, history and counters`, async (t) => {
		const { url } = await serve(t);
		const ada = client(t, url, { transports: [transport], token: "ada" });
		const room = ada.subscribe("room:a");
		const events = [];
		for (const event of ["join", "leave", "presence"])
			room.on(event, (push) => events.push([event, push.member?.user]));
		await room.ready;
		const bob = client(t, url, { token: "bob" });
		await bob.subscribe("room:a").ready;
		await until(() => events.some(([event, user]) => event === "join" && user === "bob"));
		assert.deepEqual(
			(await room.members()).members.map(({ user }) => user),
			["ada", "bob"],
		);
		assert.equal((await room.members({ limit: 1 })).members.length, 1);
		await bob.publish("room:a", "hi");
		assert.equal((await room.history({ limit: 5 })).messages[0].data, "hi");
		assert.equal((await ada.stats()).subscriptions.find(({ topic }) => topic === "room:a").delivered, 1);
	});
}

test("by polling commands are not possible, and that is said", async (t) => {
	const { url } = await serve(t);
	const reader = client(t, url, { transports: ["poll"] });
	await assert.rejects(reader.publish("room:a", 1), { code: "UNAVAILABLE", message: "not possible by polling" });
});

for (const transport of ["websocket", "sse", "poll"]) {
	test(`${transport}: a view can be changed and its rate limited`, async (t) => {
		const { url } = await serve(t);
		const [reader, writer] = [client(t, url, { transports: [transport] }), client(t, url)];
		const sub = reader.subscribe("room:a", { fields: ["a"] });
		const seen = [];
		sub.on("message", ({ data }) => seen.push(data));
		await sub.ready;
		await writer.publish("room:a", { a: 1, b: 1 });
		await until(() => seen.length === 1);
		await sub.update({ fields: ["b"] });
		if (transport === "poll") await new Promise((resolve) => setTimeout(resolve, 100)); // the next poll
		await writer.publish("room:a", { a: 2, b: 2 });
		await until(() => seen.length === 2);
		assert.deepEqual(seen, [{ a: 1 }, { b: 2 }]);
		assert.throws(() => reader.subscribe("room:a"), { code: "ALREADY_SUBSCRIBED" });
		const again = reader.subscribe("room:a", { fields: ["b"] });
		await again.ready;
		if (transport === "poll") return;
		await sub.update({ maxRate: 2 });
		// In one breath: one after the other may take long enough for more.
		await Promise.all(Array.from({ length: 18 }, (_, n) => writer.publish("room:a", { b: n + 3 })));
		await until(() => seen.at(-1).b === 20);
		assert.ok(seen.length < 8, `${seen.length}`);
	});
}

test("a reader that is too slow has one gap in the place of what is missing, exact", async (t) => {
	const { url } = await serve(t);
	const [reader, writer] = [client(t, url), client(t, url)];
	const sub = reader.subscribe("room:a", { queue: 10 });
	await sub.ready;
	for (let n = 1; n <= 30; n++) await writer.publish("room:a", n);
	await until(() => sub.position.offset === 30);
	const items = [];
	for await (const item of sub) {
		items.push(item);
		if (item.offset === 30) break;
	}
	const { from, to, count, reason } = items[0];
	assert.deepEqual({ from, to, count, reason }, { from: 1, to: 21, count: 21, reason: "slow_reader" });
	assert.deepEqual(
		items.slice(1).map(({ offset }) => offset),
		[22, 23, 24, 25, 26, 27, 28, 29, 30],
	);
});

test("a listener that throws does not stop the stream", async (t) => {
	const { url } = await serve(t);
	const reader = client(t, url);
	const said = t.mock.method(console, "error", () => {});
	const sub = reader.subscribe("room:a");
	const seen = [];
	sub.on("message", () => {
		throw new Error("oops");
	});
	sub.on("message", async () => {
		throw new Error("later");
	});
	const off = sub.on("message", ({ data }) => seen.push(data));
	await sub.ready;
	await reader.publish("room:a", 1);
	await reader.publish("room:a", 2);
	await until(() => seen.length === 2 && said.mock.callCount() === 4);
	off();
	await reader.publish("room:a", 3);
	assert.equal(seen.length, 2);
});

test("a server that stops says when to come back", async (t) => {
	const first = await serve(t, { reconnect_spread_seconds: 1 });
	const reader = client(t, first.url);
	let change;
	await state(reader, "connected");
	reader.on("state", (each) => (change ??= each));
	first.stop();
	await state(reader, "reconnecting");
	assert.ok(change.retryIn >= 100 && change.retryIn <= 1000, `${change.retryIn}`);
	assert.equal(change.error.retryAfter * 1000, change.retryIn);
});

test("closing ends everything, and nothing is left", async (t) => {
	const { url } = await serve(t);
	const reader = client(t, url);
	const sub = reader.subscribe("room:a");
	const items = (async () => {
		const all = [];
		for await (const item of sub) all.push(item.data);
		return all;
	})();
	await sub.ready;
	await reader.publish("room:a", 1);
	await until(() => sub.position.offset === 1);
	const lost = reader.request("sleep", 5);
	reader.close();
	assert.equal(reader.state, "closed");
	assert.deepEqual(await items, [1]);
	await assert.rejects(lost, { code: "UNAVAILABLE" });
	assert.throws(() => reader.subscribe("room:b"), { code: "UNAVAILABLE" });
});

test("a client that has failed starts anew when it is told to", async (t) => {
	const { url } = await serve(t, { allow_anonymous: false });
	let token = null;
	const reader = client(t, url, { token: () => token });
	const sub = reader.subscribe("room:a");
	await state(reader, "failed");
	await assert.rejects(sub.ready, { code: "AUTH_REQUIRED" });
	token = "ada";
	reader.reconnect();
	assert.equal(reader.state, "connecting");
	await state(reader, "connected");
	await until(() => sub.position);
});

test("who cannot connect gives up after as many tries", async (t) => {
	const reader = client(t, "http://127.0.0.1:1", { tries: 3 });
	const waits = [];
	reader.on("state", ({ state, retryIn }) => waits.push([state, retryIn >= 40]));
	await state(reader, "failed");
	assert.deepEqual(waits, [
		["connecting", true],
		["connecting", true],
		["failed", false],
	]);
});
