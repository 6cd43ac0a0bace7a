import { Client } from "./realtime/client.js";
export { RealtimeError } from "./realtime/error.js";

export const connect = (url, options) => new Client(url, options);
