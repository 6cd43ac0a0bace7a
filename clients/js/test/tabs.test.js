import assert from "node:assert/strict";
import { test } from "node:test";
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
