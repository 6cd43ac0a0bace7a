import { connect } from "trio-realtime";

const url = process.argv[2];

// [after
const client = connect(url, { token: async () => "a-token" });
client.on("state", ({ state }) => console.log("state", state));

const room = client.subscribe("room:lobby", { recover: { last: 3 } });
room.on("message", ({ event, data }) => {
  if (event === "chat") console.log("chat", data.text);
});

await client.publish("room:lobby", { text: "hello" }, { event: "chat", echo: false });
console.log(await client.request("greet", { name: "Ada" }));
// ]
await new Promise((resolve) => setTimeout(resolve, 200));
client.close();
