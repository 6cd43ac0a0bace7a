// The hook and the component in React's StrictMode, in a small DOM, against a real server.
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { Window } from "happy-dom";
import { client, serve, until } from "../../../../clients/js/test/support.js";

globalThis.window = new Window();
globalThis.document = window.document;
globalThis.navigator ??= window.navigator; // Node 20 has none
const complaints = [];
console.error = (...words) => complaints.push(words);
globalThis.reportError = (error) => complaints.push(error);
afterEach(() => assert.deepEqual(complaints.splice(0), []));

const here = fileURLToPath(new URL(".", import.meta.url));
await build({
  absWorkingDir: here,
  entryPoints: ["main.jsx", "room.jsx", "use-topic.js"],
  outdir: "node_modules/.built",
  bundle: true,
  splitting: true,
  packages: "external",
  format: "esm",
  jsx: "automatic",
});
const { createElement: make, StrictMode } = await import("react");
const { createRoot } = await import("react-dom/client");
const { renderToString } = await import("react-dom/server");
const { Room } = await import("./node_modules/.built/room.js");
const { useTopic } = await import("./node_modules/.built/use-topic.js");

const settings = { api_keys: ["a-key"] };

const texts = (elements) => [...elements].map(({ textContent }) => textContent);
const lists = (element) => [...element.querySelectorAll("ul")].map(({ children }) => texts(children));
const reads = (element, ...wanted) => until(() => JSON.stringify(lists(element)) === JSON.stringify(wanted));

/** A place in the page, and what is to be read there. */
function place(t) {
  const element = document.createElement("div");
  const root = createRoot(element);
  t.after(() => root.unmount());
  return {
    root,
    show: (...elements) => root.render(make(StrictMode, null, ...elements)),
    reads: (...wanted) => reads(element, ...wanted),
    alert: (wanted) => until(() => texts(element.querySelectorAll("[role=alert]")).join().startsWith(wanted)),
    paragraphs: () => texts(element.querySelectorAll("p")),
  };
}

/** What the server knows of a connection. */
async function subscriptions(url, { connection }) {
  const headers = { "x-api-key": "a-key" };
  const response = await fetch(`${url}/api/v1/connections/${connection}`, { headers });
  return (await response.json()).subscriptions;
}

const topics = async (url, reader) => (await subscriptions(url, reader)).map(({ topic }) => topic).sort();
const isThere = async (url, reader, ...wanted) =>
  until(async () => reader.connection && JSON.stringify(await topics(url, reader)) === JSON.stringify(wanted));

async function say(writer, topic, ...texts) {
  for (const text of texts) await writer.publish(topic, { text });
}

test("the page: what was said and what is said, by one subscription", async (t) => {
  const { url } = await serve(t, settings);
  const writer = client(t, url);
  await say(writer, "room:lobby", "one", "two");
  globalThis.location = { origin: url };
  document.body.innerHTML = '<div id="root"></div>';
  const main = await import("./node_modules/.built/main.js");
  t.after(() => main.client.close());
  const root = document.getElementById("root");
  await reads(root, ["one", "two"]);
  await say(writer, "room:lobby", "three");
  await reads(root, ["one", "two", "three"]);
  assert.deepEqual(await topics(url, main.client), ["room:lobby"]);
});

for (const transport of ["websocket", "sse", "poll"])
  test(`${transport}: other options, another topic, and nothing when it is gone`, async (t) => {
    const { url } = await serve(t, settings);
    const writer = client(t, url);
    await say(writer, "room:a", "a1", "a2", "a3");
    await say(writer, "room:b", "b1");
    const reader = client(t, url, { transports: [transport] });
    const { show, reads, root } = place(t);
    // A poll is a connection for as long as it lasts.
    const there = (...wanted) => transport === "poll" || isThere(url, reader, ...wanted);

    show(make(Room, { client: reader, topic: "room:a" }));
    await reads(["a1", "a2", "a3"]);
    await there("room:a");
    show(make(Room, { client: reader, topic: "room:a", keep: 2 }));
    await reads(["a2", "a3"]);
    await say(writer, "room:a", "a4");
    await reads(["a3", "a4"]);
    await there("room:a");
    show(make(Room, { client: reader, topic: "room:b", keep: 2 }));
    await reads(["b1"]);
    await there("room:b");
    await say(writer, "room:a", "a5");
    await say(writer, "room:b", "b2");
    await reads(["b1", "b2"]);
    root.unmount();
    await there();
    assert.equal(reader.cursor, "");
  });

test("the view goes to the server, and a new object of the same options is no new subscription", async (t) => {
  const { url } = await serve(t, settings);
  const reader = client(t, url);
  const { show } = place(t);
  const commands = [];
  const { subscribe } = reader;
  reader.subscribe = (...all) => (commands.push(all), subscribe.apply(reader, all));
  function View({ n, rate }) {
    useTopic(reader, "room:a", { mode: "latest", maxRate: rate });
    return n;
  }
  const sees = (rate) => until(async () => (await subscriptions(url, reader))[0]?.max_rate === rate);
  show(make(View, { n: 1, rate: 5 }));
  await until(() => reader.connection);
  await sees(5);
  const before = commands.length;
  for (let n = 2; n < 10; n++) {
    show(make(View, { n, rate: 5 }));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.equal(commands.length, before);
  show(make(View, { n: 10, rate: 2 }));
  await sees(2);
  assert.equal((await subscriptions(url, reader)).length, 1);
});

test("who comes later sees what the others have, and the last to go leaves", async (t) => {
  const { url } = await serve(t, settings);
  const reader = client(t, url);
  await say(reader, "room:a", "one", "two");
  const { show, reads } = place(t);
  const room = (key) => make(Room, { client: reader, topic: "room:a", key });
  show(room(1));
  await reads(["one", "two"]);
  show(room(1), room(2));
  await reads(["one", "two"], ["one", "two"]);
  show(room(2));
  await say(reader, "room:a", "three");
  await reads(["one", "two", "three"]);
  await isThere(url, reader, "room:a");
  show();
  await isThere(url, reader);
  show(room(3));
  await reads(["one", "two", "three"]);
});

test("what is refused is shown: a topic, a second view, a login, a client that is closed", async (t) => {
  const { url } = await serve(t, settings);
  const reader = client(t, url);
  await say(reader, "room:a", "one");
  const { show, reads, alert } = place(t);
  show(make(Room, { client: reader, topic: "nothing:here" }));
  await alert("no such kind of topic");
  show(make(Room, { client: reader, topic: "room:a" }), make(Room, { client: reader, topic: "room:a", keep: 3 }));
  await reads(["one"]);
  await alert("with other options");
  show(make(Room, { client: client(t, url, { token: "bad" }), topic: "room:a" }));
  await alert("no such token");
  const closed = client(t, url);
  closed.close();
  show(make(Room, { client: closed, topic: "room:a" }));
  await alert("the client was closed");
  await reads();
});

test("a login that works at the second try: the error goes, the messages come", async (t) => {
  const { url } = await serve(t, settings);
  await say(client(t, url), "room:a", "one");
  let token = "bad";
  const reader = client(t, url, { token: async () => token, tries: 1 });
  const { show, reads, alert } = place(t);
  show(make(Room, { client: reader, topic: "room:a" }));
  await alert("no such token");
  token = "ada";
  reader.reconnect();
  await reads(["one"]);
});

test("a server that is killed and starts anew: the gap is shown, and no line stands for another", async (t) => {
  const first = await serve(t, settings);
  const reader = client(t, first.url);
  const { show, reads, paragraphs } = place(t);
  await say(reader, "room:a", "one", "two");
  show(make(Room, { client: reader, topic: "room:a" }));
  await reads(["one", "two"]);
  await first.kill();
  await until(() => reader.state === "reconnecting");
  await serve(t, { ...settings, port: first.port });
  await until(() => reader.state === "connected");
  await say(reader, "room:a", "three", "four"); // of the same offsets as the first two
  await reads(["one", "two", "three", "four"]);
  assert.deepEqual(paragraphs(), ["Some messages are missing (epoch_changed)."]);
});

test("rendered in advance, without a client: nothing, and no complaint", () => {
  const html = renderToString(make(Room, { topic: "room:a" }));
  assert.equal(html, "<ul></ul>");
});
