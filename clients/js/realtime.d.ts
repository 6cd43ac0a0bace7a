/** Any JSON. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

export type Transport = "websocket" | "sse" | "poll";
export type State = "connecting" | "connected" | "reconnecting" | "failed" | "closed";

/** The protocol's error codes; a newer server may know more. */
export type ErrorCode =
	| "BAD_REQUEST"
	| "UNKNOWN_TYPE"
	| "AUTH_REQUIRED"
	| "AUTH_FAILED"
	| "TOKEN_EXPIRED"
	| "PERMISSION_DENIED"
	| "INVALID_TOPIC"
	| "INVALID_SYMBOL"
	| "ROOM_NOT_FOUND"
	| "SESSION_NOT_FOUND"
	| "CONNECTION_NOT_FOUND"
	| "ALREADY_SUBSCRIBED"
	| "NOT_SUBSCRIBED"
	| "SUBSCRIPTION_FAILED"
	| "LIMIT_EXCEEDED"
	| "RATE_LIMIT_EXCEEDED"
	| "PAYLOAD_TOO_LARGE"
	| "UNKNOWN_ACTION"
	| "TIMEOUT"
	| "UNAVAILABLE"
	| "INTERNAL_ERROR"
	| (string & {});

/** What the server refuses, or what could not be done. */
export class RealtimeError extends Error {
	constructor(code: ErrorCode, message: string, more?: { retry_after?: number; trace_id?: string });
	readonly name: "RealtimeError";
	readonly code: ErrorCode;
	/** Seconds after which it may be tried again. */
	readonly retryAfter?: number;
	/** Ties the error to the server's log. */
	readonly traceId?: string;
	/** As the server writes it. */
	toJSON(): { type: "error"; code: ErrorCode; message: string; retry_after?: number; trace_id?: string };
}

/** Why a token is wanted: for a connection, before the last expires, or after it was refused with this code. */
export type TokenReason = "connect" | "expiring" | "TOKEN_EXPIRED" | "AUTH_FAILED" | "AUTH_REQUIRED";
/**
 * Gives a token or a ticket; null (or "", or nothing) is nobody, and where nobody is refused the client has failed.
 * What it throws counts as a failed try. It bounds its own time.
 */
export type TokenFunction = (why: { reason: TokenReason }) => MaybeToken | Promise<MaybeToken>;
type MaybeToken = string | null | undefined;

export interface Options {
	/** Sent in the first message of a WebSocket, else in a header; never in a URL. */
	token?: string | TokenFunction | null;
	/** In the order in which they are tried. */
	transports?: Transport[];
	/** Milliseconds, like all times here. The least wait after a failed try; a lost connection waits up to this. */
	minDelay?: number;
	maxDelay?: number;
	/** Failures in a row after which the client gives up. */
	tries?: number;
	connectTimeout?: number;
	/** Whether the transport that worked is remembered, for a day, in `localStorage`. */
	remember?: boolean;
	/** One connection for all tabs that say the same name, with the same `url` and user. Loads some more modules. */
	shared?: false | string;
	/** Where the topics are resumed that the server places the user in: `client.cursor` of an earlier page. */
	cursor?: string;
	/** Of event streams and polls: "include", with a token "same-origin". A server for all origins refuses cookies. */
	credentials?: RequestCredentials;
	WebSocket?: new (url: string) => WebSocket;
	fetch?: typeof fetch;
}

export interface Position {
	epoch: string;
	offset: number;
}

export interface Message<T = any> {
	type: "message";
	topic: string;
	offset: number;
	event?: string;
	key?: string;
	/** The broker's clock, in milliseconds since 1970. */
	time: number;
	data: T;
}

export type GapReason =
	| "slow_consumer"
	| "conflated"
	| "block_timeout"
	| "upstream"
	| "epoch_changed"
	| "too_old"
	| "limit"
	| "no_history"
	| "slow_reader"
	| (string & {});

/** Messages that are lost, in their place. From the server, from a history that is gone, or from a full queue here. */
export interface Gap {
	type: "gap";
	topic: string;
	epoch: string;
	from: number;
	to: number;
	/** null where nobody knows how many of them this subscription would have seen. */
	count: number | null;
	reason: GapReason;
	recoverable: boolean;
}

export interface Member {
	user: string | null;
	connection: string;
	info: Record<string, Json>;
}

export interface Presence {
	type: "presence";
	topic: string;
	count: number;
	joined: number;
	left: number;
}

export interface Subscribed extends Position {
	type: "subscribed";
	topic: string;
	recovered?: "full" | "latest" | "none";
	why?: "epoch_changed" | "too_old" | "limit" | "no_history";
	replayed?: number;
}

/** Which messages of a topic, and what of them. */
export interface View {
	fields?: string[] | null;
	filter?: Json;
	mode?: "all" | "latest";
	/** Messages a second. */
	maxRate?: number | null;
}

export interface SubscribeOptions extends View {
	fields?: string[];
	maxRate?: number;
	/**
	 * Where to begin; afterwards the subscription goes on from its own position. By event stream, a topic that was left
	 * and is wanted from somewhere again cuts the connection for a new one, and requests under way fail.
	 */
	recover?: { last: number } | Position | { cursor: string };
	/** What may wait for `for await`, at least 1; what goes beyond becomes a gap. */
	queue?: number;
}

export interface CallOptions {
	/** 10,000 where nothing is said; Infinity is for ever. */
	timeout?: number;
	signal?: AbortSignal;
}

export interface PageOptions extends CallOptions {
	limit?: number;
}

export interface MembersPage {
	members: Member[];
	count: number;
	/** For `after`, if there are more. */
	next?: string;
}

export interface HistoryPage<T = any> extends Position {
	messages: Message<T>[];
	why?: "epoch_changed" | "too_old";
}

export interface Stats {
	subscriptions: {
		topic: string;
		delivered: number;
		dropped: number;
		conflated: number;
		filtered: number;
		queued: number;
	}[];
	queue: { messages: number; bytes: number; age: number };
}

export interface PublishOptions extends CallOptions {
	event?: string;
	key?: string;
	/** false: this connection does not hear it, nor do tabs that share it. */
	echo?: boolean;
	idempotencyKey?: string;
}

export interface Receipt extends Position {
	topic: string;
	duplicate?: true;
}

export interface StateChange {
	state: State;
	transport: Transport | null;
	/** Milliseconds until the next try. */
	retryIn?: number;
	error?: RealtimeError;
}

export interface SubscriptionEvents<T = any> {
	message: Message<T>;
	gap: Gap;
	join: { type: "join"; topic: string; member: Member };
	leave: { type: "leave"; topic: string; member: Member };
	presence: Presence;
	subscribed: Subscribed;
	/** It will bring nothing more: undefined where that was wanted. */
	ended: RealtimeError | undefined;
}

export interface ClientEvents {
	state: StateChange;
	/** Of the topics that the server has placed the user in. */
	message: Message;
	gap: Gap;
	error: RealtimeError;
}

/** Stops listening. */
export type Off = () => void;

/**
 * In a loop it gives what is kept and what comes. Where an iterator is used by hand, its `return()` and `throw()` wait
 * for the `next()` that is under way; `unsubscribe()` ends that at once.
 */
export interface Subscription<T = any> extends AsyncIterable<Message<T> | Gap> {
	readonly topic: string;
	readonly position: Position | undefined;
	/**
	 * The server's first answer; it need not be caught. Rejects with undefined where it was left before. Of a client that
	 * had failed it stays rejected: after `reconnect()` the event "subscribed" tells.
	 */
	readonly ready: Promise<Subscribed>;
	on<E extends keyof SubscriptionEvents<T>>(event: E, listener: (value: SubscriptionEvents<T>[E]) => unknown): Off;
	/** Change the view, for all who share this subscription; a refusal changes nothing. Left out stays, null takes away. */
	update(changes: View): Promise<void>;
	members(options?: PageOptions & { after?: string }): Promise<MembersPage>;
	history(options?: PageOptions & { after?: Position }): Promise<HistoryPage<T>>;
	unsubscribe(): void;
}

export interface Client {
	readonly state: State;
	readonly transport: Transport | null;
	readonly user: string | null;
	readonly connection: string | null;
	/** The positions of all topics as text. */
	readonly cursor: string;
	/** Where the topics stand that the server has placed the user in. */
	readonly placed: ({ topic: string } & Position)[];
	on<E extends keyof ClientEvents>(event: E, listener: (value: ClientEvents[E]) => unknown): Off;
	subscribe<T = any>(topic: string, options?: SubscribeOptions): Subscription<T>;
	/** Goes on over cuts, under one idempotency key, until its time is up. */
	publish(topic: string, data: unknown, options?: PublishOptions): Promise<Receipt>;
	/** Asked once: where the connection is lost under way, that is an error. */
	request<T = any>(action: string, payload?: unknown, options?: CallOptions & { traceId?: string }): Promise<T>;
	members(topic: string, options?: PageOptions & { after?: string }): Promise<MembersPage>;
	history<T = any>(topic: string, options?: PageOptions & { after?: Position }): Promise<HistoryPage<T>>;
	stats(options?: CallOptions): Promise<Stats>;
	/** Connect anew, also after the client has given up. */
	reconnect(): void;
	close(): void;
}

/** A client, which connects by itself. Without a `url` the server is where the page is from. */
export function connect(url?: string, options?: Options): Client;
