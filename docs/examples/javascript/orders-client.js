import "./orders-page.js";
import { connect } from "trio-realtime";
import { hear, refresh } from "./orders-load.js";

// [client
const orders = connect().subscribe("room:bakery", { mode: "latest" });
orders.on("message", ({ data }) => hear(data));
orders.on("gap", refresh);
await orders.ready;
await refresh();
// ]
