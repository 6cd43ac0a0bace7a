import "./orders-page.js";
import { hear, isLost, load, refresh } from "./orders-load.js";

// [stream
const cursor = await load();
const source = new EventSource(`/sse?${new URLSearchParams({ topic: "room:bakery", cursor })}`);
source.onmessage = ({ data }) => hear(JSON.parse(data).data);
source.addEventListener("gap", refresh);
source.addEventListener("subscribed", ({ data }) => isLost(JSON.parse(data)) && refresh());
// ]
