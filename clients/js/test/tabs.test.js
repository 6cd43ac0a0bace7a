import assert from "node:assert/strict";
import { test } from "node:test";
import { Hub } from "../realtime/hub.js";
import { Locks } from "./locks.js";
import { client, proxy, serve, state, until } from "./support.js";

Object.defineProperty(globalThis, "navigator", { value: { locks: new Locks() }, configurable: true });

let names = 0;
/** Tabs of one browser: the first of them leads. */
async function open(t, url, count, options) {
	const shared = `test ${++names}`;
	const made = [];
	for (let n = 0; n < count; n++) {
		made.push(client(t, url, { shared, ...options }));
		await state(made[n], "connected");
	}
	return made;
}

const collect = (sub) => {
	const seen = [];
	sub.on("message", ({ data }) => seen.push(data));
	sub.on("gap", (gap) => seen.push(gap.reason));
	return seen;
};

test("tabs share one connection, and what they subscribe to", async (t) => {
	const { url } = await serve(t);
	const [a, b, c] = await open(t, url, 3, { token: "ada" });
	assert.equal(a.connection, c.connection);
	assert.equal(a.user, "ada");
	assert.equal(b.transport, "websocket");
	const subs = [a, b, c].map((tab) => tab.subscribe("room:a"));
	const seen = subs.map(collect);
	await Promise.all(subs.map(({ ready }) => ready));
	await b.publish("room:a", 1);
	assert.equal(await c.request("echo", "hi"), "hi");
	await assert.rejects(c.request("nothing"), { code: "UNKNOWN_ACTION" });
	await until(() => seen.every((each) => each.length === 1));
	const { subscriptions } = await a.stats();
	assert.equal(subscriptions.filter(({ topic }) => topic === "room:a").length, 1);
	assert.equal((await b.members("room:a")).count, 1);
	subs[0].unsubscribe();
	await b.publish("room:a", 2);
	await until(() => seen[1].length === 2 && seen[2].length === 2);
	assert.equal(seen[0].length, 1);
});

test("a tab that wants another view, or history, gets it; history does not stay another connection", async (t) => {
	const { url } = await serve(t);
	const [a, b] = await open(t, url, 2);
	const all = a.subscribe("room:a");
	await all.ready;
	const seen = collect(all);
	for (let n = 1; n <= 5; n++) await a.publish("room:a", { n, x: 1 });
	const some = b.subscribe("room:a", { fields: ["n"] });
	const views = collect(some);
	await some.ready;
	await a.publish("room:a", { n: 6, x: 1 });
	await until(() => views.length === 1 && seen.length === 6);
	assert.deepEqual(views, [{ n: 6 }]);
	some.unsubscribe();
	const late = b.subscribe("room:a", { recover: { last: 3 } });
	const replayed = collect(late);
	await late.ready;
	await until(() => replayed.length === 3);
	for (let n = 7; n <= 20; n++) await a.publish("room:a", { n });
	await until(() => replayed.length === 17 && seen.length === 20);
	assert.deepEqual(
		replayed.map(({ n }) => n),
		Array.from({ length: 17 }, (_, n) => n + 4),
	);
	assert.equal((await a.members("room:a")).count, 1);
});

test("a leader that closes is followed by the next: none lost, none doubled", async (t) => {
	const { url } = await serve(t);
	const tabs = await open(t, url, 4, { token: "ada" });
	const subs = tabs.map((tab) => tab.subscribe("room:a"));
	const seen = subs.map(collect);
	const own = tabs.map((tab) => {
		const texts = [];
		tab.on("message", ({ topic, data }) => topic === "user:ada" && texts.push(data.text));
		return texts;
	});
	await Promise.all(subs.map(({ ready }) => ready));
	const writer = client(t, url);
	for (let n = 1; n <= 300; n++) {
		if (n === 100 || n === 200) tabs[n / 100 - 1].close();
		await writer.publish("room:a", n);
		if (n % 50 === 0) await writer.request("tell", `${n}`);
		if (n % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
	}
	await until(() => seen[2].length >= 300 && seen[3].length >= 300 && own[3].length >= 6);
	const numbers = Array.from({ length: 300 }, (_, n) => n + 1);
	assert.deepEqual(seen[2], numbers);
	assert.deepEqual(seen[3], numbers);
	assert.deepEqual(own[3], ["50", "100", "150", "200", "250", "300"]);
});

test("tabs are told what becomes of their connection, and lose nothing by it", async (t) => {
	const { url, port } = await serve(t);
	const between = await proxy(t, port);
	const [a, b] = await open(t, between.url, 2);
	const states = [];
	b.on("state", ({ state }) => states.push(state));
	const sub = b.subscribe("room:a");
	const seen = collect(sub);
	await sub.ready;
	between.cut();
	const writer = client(t, url);
	await writer.publish("room:a", 1);
	await until(() => seen.length === 1);
	assert.deepEqual(states, ["reconnecting", "connected"]);
	assert.equal(a.state, "connected");
});

test("the token is asked of a tab that lives, and a refusal reaches all", async (t) => {
	const { url } = await serve(t, { token_warning_seconds: 1 });
	const asked = [];
	const token = ({ reason }) => (asked.push(reason), "ada/1.4");
	const [a, b] = await open(t, url, 2, { token });
	a.close();
	await until(() => asked.filter((reason) => reason === "expiring").length > 1);
	await state(b, "connected");
	assert.equal(b.user, "ada");
	const refused = client(t, url, { shared: "refused", token: "bad" });
	await state(refused, "failed");
	await assert.rejects(refused.publish("room:a", 1), { code: "AUTH_FAILED" });
});

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

test("tabs that take a topic with its history at once both have it", async (t) => {
	const { url } = await serve(t);
	const [a, b] = await open(t, url, 2);
	for (let n = 1; n <= 3; n++) await a.publish("room:a", n);
	const subs = [a, b].map((tab) => tab.subscribe("room:a", { recover: { last: 2 } }));
	const seen = subs.map(collect);
	await Promise.all(subs.map(({ ready }) => ready));
	await a.publish("room:a", 4);
	await until(() => seen.every((each) => each.length === 3));
	assert.deepEqual(seen, [
		[2, 3, 4],
		[2, 3, 4],
	]);
});

test("a view that is changed and refused stays as it was, alone on a topic or not", async (t) => {
	const { url } = await serve(t);
	const [a, b] = await open(t, url, 2);
	const subs = [a, b].map((tab) => tab.subscribe("room:a", { fields: ["x"] }));
	const alone = a.subscribe("room:b", { fields: ["x"] });
	const seen = [...subs, alone].map(collect);
	for (const sub of [...subs, alone]) sub.on("ended", (error) => error && assert.fail(`${error}`));
	await Promise.all([...subs, alone].map(({ ready }) => ready));
	for (const sub of [subs[0], alone])
		await assert.rejects(sub.update({ filter: { no: [1] } }), { code: "BAD_REQUEST" });
	for (const topic of ["room:a", "room:b"]) await b.publish(topic, { x: 1, y: 1 });
	await until(() => seen.every((each) => each.length === 1));
	await Promise.all([subs[0].update({ fields: ["y"] }), alone.update({ fields: ["y"] })]);
	for (const topic of ["room:a", "room:b"]) await b.publish(topic, { x: 2, y: 2 });
	await until(() => seen.every((each) => each.length === 2));
	assert.deepEqual(
		seen.map((each) => each[1]),
		[{ y: 2 }, { x: 2 }, { y: 2 }],
	);
	alone.unsubscribe();
	await assert.rejects(alone.update({ fields: ["x"] }), { code: "NOT_SUBSCRIBED" });
	await until(async () => (await a.stats()).subscriptions.every(({ topic }) => topic !== "room:b"));
});

test("a view that is changed cuts no event stream", async (t) => {
	const { url } = await serve(t);
	const [a, b] = await open(t, url, 2, { transports: ["sse"] });
	const sub = a.subscribe("room:a");
	const seen = collect(sub);
	await sub.ready;
	const { connection } = b;
	const answer = b.request("sleep", 0.3);
	for (const maxRate of [100, 200, null]) await sub.update({ maxRate });
	assert.equal(await answer, "slept");
	await b.publish("room:a", 1);
	await until(() => seen.length === 1);
	assert.equal(b.connection, connection);
});

test("what a tab has given up is not published later", async (t) => {
	const { url, port } = await serve(t);
	let fate = "pass";
	const between = await proxy(t, port, () => fate);
	const [tab] = await open(t, between.url, 1, { transports: ["websocket"] });
	const reader = client(t, url);
	const sub = reader.subscribe("room:a");
	const seen = collect(sub);
	await sub.ready;
	fate = "cut";
	between.cut();
	await state(tab, "reconnecting");
	await assert.rejects(tab.publish("room:a", "late", { timeout: 100 }), { code: "TIMEOUT" });
	await assert.rejects(tab.publish("room:a", "given up", { signal: AbortSignal.timeout(100) }), {
		name: "TimeoutError",
	});
	const patient = tab.publish("room:a", "patient", { timeout: Infinity });
	await pause(50);
	fate = "pass";
	await patient;
	await until(() => seen.includes("patient"));
	await pause(50);
	assert.deepEqual(seen, ["patient"]);
});

test("a tab whose second view is refused a connection for good is told", async (t) => {
	let made = 0;
	class Refusing {
		constructor() {
			const second = made++ > 0;
			const welcome = { type: "welcome", connection: "c", ping_interval: 25, topics: [] };
			const no = { type: "disconnect", code: 4008, reason: "one connection a user", reconnect: false };
			queueMicrotask(() => this.say(second ? no : welcome));
			if (second) setTimeout(() => this.onclose?.({ code: 4008 }));
		}

		say(push) {
			this.onmessage?.({ data: JSON.stringify(push) });
		}

		send(text) {
			const { id, topic } = JSON.parse(text);
			queueMicrotask(() => this.say({ type: "subscribed", id, topic, epoch: "e", offset: 0 }));
		}

		close() {}
	}
	const real = globalThis.WebSocket;
	globalThis.WebSocket = Refusing;
	t.after(() => (globalThis.WebSocket = real));
	const [a, b] = await open(t, "http://x", 2, { transports: ["websocket"] });
	await a.subscribe("room:a").ready;
	const other = b.subscribe("room:a", { fields: ["x"] });
	let reason;
	other.ready.catch((error) => (reason = error.code));
	await until(() => reason === "UNAVAILABLE");
	await pause(100);
	assert.equal(made, 2);
	assert.equal(b.state, "connected");
});

test("a token that takes its time is taken, and meanwhile another tab is asked; where all say no that is told", async (t) => {
	t.mock.timers.enable({ apis: ["setTimeout"] });
	const settle = async () => {
		for (let n = 0; n < 50; n++) await Promise.resolve();
	};
	const tokens = [];
	class Login {
		constructor() {
			queueMicrotask(() =>
				this.onmessage({ data: JSON.stringify({ type: "welcome", topics: [], ping_interval: 25 }) }),
			);
		}

		send(text) {
			tokens.push(JSON.parse(text).token);
		}

		close() {}
	}
	const real = globalThis.WebSocket;
	globalThis.WebSocket = Login;
	t.after(() => (globalThis.WebSocket = real));
	const hub = new Hub();
	t.after(() => hub.close());
	const asked = [];
	const told = [];
	const hello = { type: "hello", url: "http://x", token: true, cursor: "", options: { transports: ["websocket"] } };
	for (const id of [1, 2]) {
		const lock = `tab ${Math.random()}`;
		navigator.locks.request(lock, () => new Promise(() => {}));
		hub.hear(id, { ...hello, lock }, (push) => {
			if (push.type === "token") asked.push([id, push]);
			else told.push(push);
		});
	}
	const ids = () => asked.map(([id]) => id);
	await settle();
	assert.deepEqual(ids(), [1]);
	t.mock.timers.tick(5000);
	await settle();
	assert.deepEqual(ids(), [1, 2]);
	t.mock.timers.tick(7000);
	await settle();
	assert.deepEqual(tokens, []);
	hub.hear(1, { ...asked[0][1], token: "late" }, () => {});
	await settle();
	assert.deepEqual(tokens, ["late"]);
	t.mock.timers.tick(600_000); // nobody answers that
	for (let n = 0; n < 3; n++) {
		await settle();
		const [id, push] = asked.at(-1);
		hub.hear(id, { ...push, token: undefined }, () => {});
	}
	await settle();
	assert.ok(told.some(({ error }) => error?.code === "UNAVAILABLE"));
});
