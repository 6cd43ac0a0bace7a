// Mounts and unmounts a store as React does in StrictMode, against a real server.
import { connect } from "trio-realtime";
import { topicStore } from "./topic-store.js";

const client = connect(process.argv[2], { token: "a-token" });
const until = async (condition) => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 10));
};
const texts = (store) => store.getSnapshot().messages.map(({ data }) => data.text);

const store = topicStore(client, "room:lobby", { keep: 3 });
let renders = 0;
store.subscribe(() => renders++)(); // mounted, and unmounted at once
const leave = store.subscribe(() => renders++);
const leaveToo = store.subscribe(() => {});
await until(() => texts(store).length === 3);
console.log(texts(store).join(), "renders:", renders);
console.log("same object:", store.getSnapshot() === store.getSnapshot());

const before = store.getSnapshot();
await client.publish("room:lobby", { text: "line 4" });
await until(() => store.getSnapshot() !== before);
console.log(texts(store).join());

leave();
leaveToo();
const { subscriptions } = await client.stats();
console.log("subscriptions to it:", subscriptions.filter(({ topic }) => topic === "room:lobby").length);

const closed = topicStore(client, "nothing:here");
closed.subscribe(() => {});
await until(() => closed.getSnapshot().error);
console.log("refused:", closed.getSnapshot().error.code);
client.close();
