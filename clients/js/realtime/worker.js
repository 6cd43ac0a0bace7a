import { Hub } from "./hub.js";

const hub = new Hub();
navigator.locks.request(name, () => new Promise(() => {})); // until this worker is gone
let ports = 0;
onconnect = ({ ports: [port] }) => {
	const id = ++ports;
	port.onmessage = ({ data }) => hub.hear(id, data, (answer) => port.postMessage(answer));
};
