import { RealtimeError } from "./error.js";

export function websocket({ url, cursor, token, WebSocket, hear, end }) {
	const socket = new WebSocket(`${url.replace(/^http/, "ws")}/ws${cursor && `?cursor=${encodeURIComponent(cursor)}`}`);
	let held; // until the login is answered

	socket.onmessage = ({ data }) => {
		const push = JSON.parse(data);
		if (token && push.type === "welcome") {
			held = [push];
			socket.send(JSON.stringify({ type: "auth", id: 0, token }));
		} else if (!held || push.type === "disconnect") hear(push);
		else if (push.id !== 0) held.push(push);
		else if (push.type === "error") end({ error: RealtimeError.of(push) });
		else {
			const [welcome, ...rest] = held;
			held = undefined;
			hear({ ...welcome, user: push.user, topics: [...welcome.topics, ...push.topics] });
			rest.forEach(hear);
		}
	};
	socket.onclose = ({ code }) => end({ code, next: true });

	return {
		send: (text) => socket.send(text),
		close() {
			socket.onmessage = socket.onclose = null;
			socket.close(1000);
		},
	};
}
