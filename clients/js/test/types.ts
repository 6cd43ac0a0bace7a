// Uses all of the declarations; it is compiled, and never run.
import { connect, RealtimeError } from "../realtime.js";
import type { Gap, Message, Options, Position, Receipt, State, StateChange, Transport } from "../realtime.js";

const options: Options = {
	token: async ({ reason }) => (reason === "TOKEN_EXPIRED" ? null : "token"),
	transports: ["websocket", "sse", "poll"],
	minDelay: 3000,
	maxDelay: 30000,
	tries: Infinity,
	connectTimeout: 10000,
	remember: true,
	shared: "name",
	cursor: "",
	WebSocket: globalThis.WebSocket,
	fetch: globalThis.fetch,
};

interface Tick {
	price: number;
}

async function use(): Promise<void> {
	const client = connect("https://example.com", options);
	const state: State = client.state;
	const transport: Transport | null = client.transport;
	const user: string | null = client.user ?? client.connection;
	const off: () => void = client.on("state", ({ state, retryIn, error }: StateChange) => [state, retryIn, error?.code]);
	client.on("message", (message) => message.data);
	client.on("gap", (gap) => gap.reason);
	client.on("error", (error) => error.retryAfter ?? error.traceId);
	off();

	const sub = client.subscribe<Tick>("symbol:600519", {
		fields: ["price"],
		filter: { ">": ["price", 10] },
		mode: "latest",
		maxRate: 5,
		recover: { last: 10 },
		queue: 100,
	});
	client.subscribe("a:b", { recover: { epoch: "e", offset: 1 } });
	client.subscribe("a:c", { recover: { cursor: client.cursor } });
	const { epoch, offset, recovered, why, replayed } = await sub.ready;
	const position: Position | undefined = sub.position;
	sub.on("message", ({ data }) => data.price.toFixed(2));
	sub.on("gap", ({ from, to, count, recoverable }) => [from, to, count, recoverable]);
	sub.on("join", ({ member }) => member.user);
	sub.on("leave", ({ member }) => member.info["name"]);
	sub.on("presence", ({ count, joined, left }) => count + joined - left);
	sub.on("subscribed", ({ topic }) => topic);
	sub.on("ended", (error) => error?.code);
	for await (const item of sub) {
		const either: Message<Tick> | Gap = item;
		if (either.type === "message") either.data.price;
		else either.count;
	}
	await sub.update({ fields: null, filter: null, mode: "all", maxRate: null });
	const { members, next } = await sub.members({ limit: 10, after: "x" });
	const { messages } = await sub.history({ limit: 10, after: { epoch: "e", offset: 1 } });
	messages[0]?.data.price;
	sub.unsubscribe();

	const receipt: Receipt = await client.publish(
		"room:a",
		{ text: "hi" },
		{
			event: "chat",
			key: "1",
			echo: false,
			idempotencyKey: "k",
			timeout: 1000,
			signal: AbortSignal.timeout(500),
		},
	);
	const answer: string = await client.request<string>("action", { a: 1 }, { timeout: 1, traceId: "t" });
	await client.members("room:a", { limit: 1, after: next });
	await client.history<Tick>("room:a");
	(await client.stats()).subscriptions[0]?.delivered;
	client.placed[0]?.topic;
	client.reconnect();
	client.close();
	const error = new RealtimeError("TIMEOUT", "late", { retry_after: 1 });
	console.log(
		state,
		transport,
		user,
		epoch,
		offset,
		recovered,
		why,
		replayed,
		position,
		members,
		receipt,
		answer,
		error.code,
	);

	// @ts-expect-error an event that is none
	sub.on("messages", () => {});
	// @ts-expect-error a transport that is none
	connect("", { transports: ["carrier-pigeon"] });
	// @ts-expect-error not to be written
	client.state = "closed";
}

void use;
