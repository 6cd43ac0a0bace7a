// The guide of the browser client, as a program for Node. The comments "// [" mark what the page shows.
import { connect, RealtimeError } from "trio-realtime";

const url = process.argv[2];
const fetchToken = async () => "a-token";
const moment = () => new Promise((resolve) => setTimeout(resolve, 200));

// [connect
const client = connect(url, {
  // The reason is "connect", "expiring", or the code of a refusal.
  token: async ({ reason }) => fetchToken(reason),
});
client.on("state", ({ state, transport, retryIn, error }) => {
  if (state === "reconnecting") console.log(`again in ${retryIn} ms: ${error.message}`);
  if (state === "failed") console.log(`for good: ${error.code}`);
});
// ]

// [subscribe
const prices = client.subscribe("symbol:600519", {
  fields: ["price"],
  filter: { ">": ["price", 100] },
  mode: "latest",
  maxRate: 5,
  recover: { last: 1 },
});
prices.on("message", ({ offset, data }) => console.log("price", offset, data.price));
prices.on("gap", ({ from, to, reason }) => console.log("lost", from, to, reason));
prices.on("ended", (error) => console.log("ended:", error?.code ?? "unsubscribed"));
await prices.ready; // rejects with a RealtimeError where the server says no
// ]
await moment();

// [update
await prices.update({ fields: null, maxRate: 1 });
prices.unsubscribe();
// ]

// [iterate
const lobby = client.subscribe("room:lobby", { recover: { last: 3 }, queue: 100 });
let seen = 0;
for await (const item of lobby) {
  if (item.type === "gap") console.log("lost", item.count, item.reason);
  else console.log("line", item.offset, item.data.text);
  if (++seen === 3) break; // leaves the loop, and the subscription goes on
}
// ]

// [publish
const note = { text: "hello" };
const { offset } = await client.publish("room:lobby", note, { event: "chat", echo: false });
console.log("published", offset);
try {
  await client.publish("nothing:here", {}, { timeout: 5000 });
} catch (error) {
  if (!(error instanceof RealtimeError)) throw error;
  console.log("refused", error.code);
}
// ]

// [request
console.log("sum", await client.request("add", [1, 2, 3], { timeout: 5000 }));
// ]

// [presence
const { members, count } = await lobby.members();
console.log(count, "member:", members[0].info.name);
lobby.on("join", ({ member }) => console.log("came", member.user));
lobby.on("leave", ({ member }) => console.log("left", member.user));
lobby.on("presence", ({ count: now }) => console.log("now there are", now));
// ]

// [history
const page = await client.history("room:lobby", { limit: 2 });
console.log(page.messages.map((message) => message.data.text));
// ]
await moment();

console.log(client.state, client.user);
client.close();
console.log(client.state);
