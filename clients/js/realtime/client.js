import { backoff } from "./backoff.js";
import { decodeCursor, encodeCursor } from "./cursor.js";
import { RealtimeError } from "./error.js";
import { Events, report } from "./events.js";
import { poll } from "./poll.js";
import { sse } from "./sse.js";
import { Subscription } from "./subscription.js";
import { Topic } from "./topic.js";
import { websocket } from "./websocket.js";

const LINKS = { websocket, sse, poll };
const MOST = 1000;
const DAY = 864e5;
const LOGIN = ["AUTH_REQUIRED", "AUTH_FAILED", "TOKEN_EXPIRED"];
const PASSING = ["LIMIT_EXCEEDED", "RATE_LIMIT_EXCEEDED", "UNAVAILABLE", "SUBSCRIPTION_FAILED", "TIMEOUT"];
const CLOSES = { 4001: "AUTH_FAILED", 4003: "PERMISSION_DENIED", 4102: "TOKEN_EXPIRED" };

const lost = (text = "the connection was lost") => new RealtimeError("UNAVAILABLE", text);
const forGood = (code) => [1002, 1003, 1007, 1009].includes(code) || (code >= 4000 && code < 4100 && code !== 4029);
const refused = ({ status }) => status < 500 && ![408, 429].includes(status);
const keyOf = (...view) => JSON.stringify(view, (_, value) => value ?? undefined);
const wire = ({ maxRate, ...view }) => ({ ...view, max_rate: maxRate });

const deferred = () => {
	const it = {};
	it.promise = new Promise((resolve, reject) => Object.assign(it, { resolve, reject }));
	it.promise.catch(() => {});
	return it;
};

const page = (step, wake) => {
	for (const event of ["online", "resume", "visibilitychange"])
		for (const target of [globalThis, globalThis.document]) target?.[`${step}EventListener`]?.(event, wake);
};

export class Client extends Events {
	state = "connecting";
	transport = null;
	user = null;
	connection = null;
	#options;
	#transports;
	#key;
	#standIn = {}; // instead of a better transport
	#topics = new Map();
	#link;
	#run = 0; // ends the one before
	#nap;
	#up = deferred();
	#error;
	#lastId = 0;
	#waiting = new Map();
	#out = [];
	#calls = 0;
	#limit;
	#turn = 0;

	constructor(url = "", options = {}) {
		super();
		const all = {
			url: url.replace(/\/$/, "") || globalThis.location.origin,
			transports: Object.keys(LINKS),
			minDelay: 3000,
			maxDelay: 30000,
			tries: Infinity,
			connectTimeout: 10000,
			remember: true,
			WebSocket: globalThis.WebSocket,
			fetch: (...call) => fetch(...call),
			...options,
		};
		this.#options = all;
		this.#transports = all.transports.filter((name) => name !== "websocket" || all.WebSocket);
		if (all.shared && globalThis.navigator?.locks && globalThis.BroadcastChannel) this.#transports = ["tabs"];
		this.#key = `realtime ${all.url}`;
		try {
			if (all.remember) this.#standIn = JSON.parse(localStorage[this.#key]);
		} catch {}
		for (const { topic, ...position } of decodeCursor(all.cursor)) this.#place(topic).position = position;
		page("add", this.#wake);
		this.#start();
	}

	subscribe(name, { queue, recover, fields, filter, mode, maxRate } = {}) {
		if (this.state === "closed") throw this.#error;
		const view = { fields, filter, mode, maxRate };
		const at = recover?.cursor == null ? recover : decodeCursor(recover.cursor).find(({ topic }) => topic === name);
		const { epoch, offset, last } = at ?? {};
		const from = at && { epoch, offset, last };
		const key = keyOf(view, from);
		const topic = this.#topics.get(name) ?? new Topic(name);
		const first = !topic.subs.size;
		if (first) topic.ask(view, from, key);
		else if (topic.key !== key) throw new RealtimeError("ALREADY_SUBSCRIBED", "with other options");
		const sub = new Subscription(this, topic, queue);
		topic.subs.add(sub);
		this.#topics.set(name, topic);
		if (topic.live && (!first || topic.plain))
			queueMicrotask(() => {
				if (topic.live && topic.subs.has(sub))
					sub._tell("subscribed", { type: "subscribed", topic: name, ...topic.position });
			});
		else if (first && this.#link?.open) this.#join(topic);
		return sub;
	}

	async publish(topic, data, { event, key, echo, idempotencyKey, ...options } = {}) {
		const idempotency_key = idempotencyKey ?? crypto.getRandomValues(new Uint32Array(4)).join("-");
		const command = { type: "publish", topic, data, event, key, echo, idempotency_key };
		const { type, id, ...receipt } = await this._call(command, options);
		return receipt;
	}

	async request(action, payload, { traceId, timeout = 10000, signal } = {}) {
		const command = { type: "request", action, payload, trace_id: traceId, timeout: timeout / 1000 };
		return (await this._call(command, { timeout, signal })).data;
	}

	members(topic, { limit, after, ...options } = {}) {
		return this._call({ type: "members", topic, limit, after }, options);
	}

	history(topic, { limit, after, ...options } = {}) {
		return this._call({ type: "history", topic, limit, after }, options);
	}

	stats(options) {
		return this._call({ type: "stats" }, options);
	}

	get cursor() {
		return encodeCursor(this.#positions(() => true));
	}

	get placed() {
		return this.#positions(({ placed }) => placed);
	}

	reconnect() {
		if (this.state !== "closed") this.#start();
	}

	close() {
		if (this.state === "closed") return;
		this.#run++;
		page("remove", this.#wake);
		this.#giveUp("closed", lost("the client was closed"));
		for (const topic of this.#topics.values()) this.#end(topic);
	}

	#start() {
		const run = ++this.#run;
		this.#link?.end();
		this.#nap?.end();
		if (this.state === "failed") {
			this.#up = deferred();
			this.connection = null;
		}
		this.#set();
		this.#keep(run).catch(report);
	}

	async #keep(run) {
		const { tries, token } = this.#options;
		let failures = 0;
		let refusals = 0;
		let reason = "connect";
		await null; // for listeners
		while (run === this.#run) {
			if (globalThis.navigator?.onLine === false) {
				await this.#sleep(Infinity);
				continue;
			}
			const end = await this.#round(reason, run);
			if (run !== this.#run) return;
			const { error, first } = end;
			if (first && error.status < 429 && !LOGIN.includes(error.code)) {
				this.#end(first, error);
				continue;
			}
			const after = (error.retryAfter ?? 0) * 1000;
			if (end.healthy) failures = refusals = 0;
			else failures++;
			reason = "connect";
			let wait = Math.max(end.soon ? Math.random() * end.soon : backoff(failures, this.#options), after);
			if (LOGIN.includes(error.code)) {
				reason = error.code;
				end.final = typeof token !== "function" || !end.token;
				if (!refusals++) wait = 0;
			}
			if (end.final || failures >= tries) {
				this.#remember({});
				this.#giveUp("failed", error);
				return this._emit("error", error);
			}
			this.#set(undefined, { retryIn: wait, error });
			await this.#sleep(wait, Date.now() + after);
		}
	}

	async #round(reason, run) {
		const { name, until } = this.#standIn;
		const first = Date.now() < until ? this.#transports.indexOf(name) : 0;
		let end = { error: lost("no transport"), next: true };
		for (const transport of this.#transports.slice(Math.max(0, first)))
			if (end.next) end = await this.#attempt(transport, reason, run);
		return end;
	}

	#remember(standIn) {
		this.#standIn = standIn;
		try {
			if (this.#options.remember) localStorage[this.#key] = JSON.stringify(standIn);
		} catch {}
	}

	async #token(reason) {
		const { token } = this.#options;
		return typeof token === "function" ? token({ reason }) : token;
	}

	async #attempt(transport, reason, run) {
		const { token: own, minDelay, connectTimeout } = this.#options;
		let make = LINKS[transport];
		let token = !make && typeof own === "function";
		try {
			token ||= await this.#token(reason);
			make ??= (await import("./tabs.js")).tabs;
		} catch (error) {
			return { error: lost(error?.message) };
		}
		if (run !== this.#run) return {};
		const wanted = [...this.#topics.values()].filter(({ subs }) => subs.size);
		const first = transport === "sse" && wanted[this.#turn++ % wanted.length];
		const opener = first && this.#subscribe(first);
		return new Promise((resolve) => {
			let welcomed;
			let heardAt;
			let silence;
			let timer;
			let goodbye = {};
			let said;
			const heard = () => (heardAt = Date.now());

			const check = () => {
				clearTimeout(timer);
				const left = silence - (Date.now() - heardAt);
				if (left > 0 && left <= silence) timer = setTimeout(check, left);
				else if (silence) link.end();
			};
			const end = ({ code = 0, error = said, next, ...info } = {}) => {
				if (link.ended) return;
				link.ended = true;
				clearTimeout(timer);
				const why = goodbye.code ?? code;
				if (!(error instanceof RealtimeError))
					error = new RealtimeError(CLOSES[why] ?? "UNAVAILABLE", goodbye.reason ?? error?.message ?? lost().message);
				error.retryAfter ??= goodbye.retry_after;
				const healthy = Date.now() - welcomed > minDelay / 2;
				const final = !(goodbye.reconnect ?? !forGood(why)) || refused(error);
				resolve({ soon: link.soon, token, first, ...info, error, next: next && !welcomed, healthy, final });
				if (this.#link === link) this.#lose();
				link.io?.close();
			};
			const hear = (push) => {
				heard();
				if (link.ended) return;
				if (push.type === "welcome") {
					welcomed = heardAt;
					link.open = true;
					silence = (push.ping_interval + 10) * 1000; // NaN among tabs, which have locks
					this.#welcome(push, transport);
					check();
				} else if (push.type === "disconnect") goodbye = push;
				else if (push.type === "error" && push.id === undefined) this._emit("error", (said = RealtimeError.of(push)));
				else this.#hear(push);
			};

			const link = (this.#link = { end, check, first });
			const ask = (why) => this.#token(why);
			const cursor = encodeCursor(this.placed);
			if (LINKS[transport]) timer = setTimeout(end, connectTimeout, { next: true });
			try {
				link.io = make({ ...this.#options, token, ask, cursor, opener, hear, heard, end, idle: () => this.#flush() });
				if (link.ended) link.io.close();
			} catch (error) {
				end({ error, next: true });
			}
		});
	}

	#welcome({ connection, user = null, limits, topics, transport }, name) {
		const { name: before, until } = this.#standIn;
		// What worked twice comes first for a day.
		if (name === this.#transports[0]) this.#remember({});
		else if (!(Date.now() < until)) this.#remember({ name, until: before === name && Date.now() + DAY });
		Object.assign(this, { connection, user, transport: transport ?? name });
		this.#limit = limits?.max_message_bytes ?? Infinity;
		for (const standing of topics) this.#stand(standing, standing.topic === this.#link.first?.name);
		for (const topic of this.#topics.values()) {
			if (topic.live) continue;
			if (topic.subs.size) this.#join(topic);
			else this.#topics.delete(topic.name);
		}
		this.#up.resolve();
		this.#set("connected");
	}

	#lose() {
		if (this.#link.open) this.#up = deferred();
		this.#link = undefined;
		this.#out = [];
		for (const topic of this.#topics.values()) {
			topic.live = false;
			clearTimeout(topic.timer);
		}
		for (const [id, done] of this.#waiting) {
			this.#waiting.delete(id);
			done({ type: "lost" });
		}
	}

	#giveUp(state, error) {
		this.#error = error;
		this.#link?.end();
		this.#nap?.end();
		this.#up.reject(error);
		for (const { subs } of this.#topics.values()) for (const sub of subs) sub._fail(error);
		this.#set(state, { error });
	}

	#set(state = this.connection ? "reconnecting" : "connecting", more) {
		this.state = state;
		this._emit("state", { state, transport: this.transport, ...more });
	}

	#sleep(ms, until = 0) {
		return new Promise((resolve) => {
			const end = () => resolve(clearTimeout(nap.timer));
			const nap = (this.#nap = { until, end, timer: setTimeout(end, Math.min(ms, 1 << 30)) });
		});
	}

	#wake = ({ type }) => {
		const nap = this.#nap;
		const link = this.#link;
		if (globalThis.document?.hidden && type !== "online") return;
		if (link?.open) {
			link.soon = 300;
			link.check();
			this._call({ type: "ping" }, { timeout: 5000 })
				.catch(({ code }) => code === "TIMEOUT" && link.end())
				.then(() => (link.soon = 0));
		} else if (nap) {
			clearTimeout(nap.timer);
			nap.timer = setTimeout(nap.end, Math.max(Math.random() * 300, nap.until - Date.now()));
		}
	};

	#positions(counts) {
		return [...this.#topics.values()]
			.filter((topic) => topic.position && counts(topic))
			.map(({ name, position }) => ({ topic: name, ...position }));
	}

	#place(name) {
		const topic = new Topic(name, true);
		this.#topics.set(name, topic);
		return topic;
	}

	#subscribe({ name, view, position, recover }) {
		return { type: "subscribe", topic: name, ...wire(view), recover: position ?? recover };
	}

	#join(topic) {
		if (topic.recover && this.#link.io.left?.has(topic.name)) return this.#start();
		if (topic.placed) this.#send({ type: "unsubscribe", topic: topic.name });
		topic.live = false;
		this.#send(this.#subscribe(topic), (reply) => {
			if (this.#topics.get(topic.name) !== topic || reply.type === "lost") return;
			if (reply.type === "error") this.#refused(topic, RealtimeError.of(reply), reply.final);
			else this.#stand(reply, true);
		});
	}

	#stand(standing, own) {
		const topic = this.#topics.get(standing.topic) ?? this.#place(standing.topic);
		const { live } = topic;
		topic.placed ||= !own && !live;
		if (!own && !live && !topic.plain) return;
		const gap = topic.stand(standing);
		if (!live) topic.tell("subscribed", { type: "subscribed", ...standing });
		if (gap) this.#deliver(topic, gap);
	}

	#deliver(topic, push) {
		if (topic.placed) this._emit(push.type, push);
		topic.tell(push.type, push);
	}

	#refused(topic, error, final) {
		if (!final && error.code === "AUTH_REQUIRED") return this.#link.end({ error }); // no topic's fault
		// The first of them where it was live before.
		if (final || PASSING.indexOf(error.code) < (topic.position && !topic.recover ? 0 : 1))
			return this.#end(topic, error);
		topic.timer = setTimeout(() => this.#join(topic), error.retryAfter * 1000 || backoff(1, this.#options));
	}

	#end(topic, error) {
		clearTimeout(topic.timer);
		topic.live = false;
		this.#topics.delete(topic.name);
		for (const sub of topic.subs) sub._stop(error);
	}

	_leave(topic, sub) {
		topic.subs.delete(sub);
		if (topic.subs.size || this.#topics.get(topic.name) !== topic) return;
		if (topic.placed && topic.live && topic.plain) return;
		this.#end(topic);
		const link = this.#link;
		if (link?.first === topic && !link.open) return this.#start();
		if (!link?.open) return;
		link.io.left?.add(topic.name);
		this.#send({ type: "unsubscribe", topic: topic.name });
	}

	async _update(topic, changes) {
		await this._call({ type: "update", topic: topic.name, ...wire(changes) });
		topic.view = { ...topic.view, ...changes };
		topic.key = keyOf(topic.view, undefined);
	}

	#hear(push) {
		const { id, type, topic: name } = push;
		if (id !== undefined) {
			this.#waiting.get(id)?.(push);
			this.#waiting.delete(id);
			return;
		}
		const topic = this.#topics.get(name);
		if (type === "subscribed") this.#stand(push);
		else if (type === "token_expiring")
			setTimeout(() => this.#refresh(), push.expires_in * 150 + 150); // the next may be as near its end
		else if (type === "ping") {
			for (const { topic: each, epoch, offset } of push.positions ?? []) {
				const at = this.#topics.get(each);
				if (at?.live && at.position.epoch === epoch) at.pass(epoch, offset);
			}
		} else if (type === "state") {
			this.transport = push.transport;
			this.#set(push.state, { retryIn: push.retryIn, error: push.error && RealtimeError.of(push.error) });
		} else if (!topic?.live) return;
		else if (type === "message" || type === "gap") {
			const { epoch = topic.position.epoch, to = push.offset } = push;
			if (topic.pass(epoch, to)) this.#deliver(topic, push);
		} else if (type !== "unsubscribed") topic.tell(type, push);
		else if (push.resubscribe && topic.subs.size) {
			topic.live = topic.placed = false;
			this.#refused(topic, lost());
		} else this.#end(topic, new RealtimeError(push.code ?? "PERMISSION_DENIED", "ended by the server"));
	}

	async #refresh() {
		try {
			const token = this.#link?.open && typeof this.#options.token === "function" && (await this.#token("expiring"));
			if (!token) return;
			const { topics } = await this._call({ type: "auth", token, cursor: encodeCursor(this.placed) });
			for (const standing of topics) this.#stand(standing);
		} catch (error) {
			this._emit("error", error);
		}
	}

	async _call(command, { timeout = 10000, signal } = {}) {
		if (this.#calls >= MOST) throw new RealtimeError("LIMIT_EXCEEDED", "too many calls wait");
		signal?.throwIfAborted();
		command = JSON.parse(JSON.stringify(command)); // else the flush would throw
		const stop = deferred();
		const timer = setTimeout(() => stop.reject(new RealtimeError("TIMEOUT", "no answer")), Math.min(timeout, 1 << 30));
		const abort = () => stop.reject(signal.reason);
		signal?.addEventListener("abort", abort);
		this.#calls++;
		try {
			for (;;) {
				await Promise.race([this.#up.promise, stop.promise]);
				if (!this.#link?.open) continue;
				const reply = await Promise.race([new Promise((resolve) => this.#send(command, resolve)), stop.promise]);
				if (reply.type === "error") throw RealtimeError.of(reply);
				if (reply.type !== "lost") return reply;
				if (command.type === "request") throw lost();
			}
		} finally {
			this.#calls--;
			clearTimeout(timer);
			signal?.removeEventListener("abort", abort);
			if (this.#waiting.delete(command.id)) this.#link.io.forget?.(command.id);
			this.#out = this.#out.filter((waits) => waits !== command);
		}
	}

	#send(command, done) {
		command.id = ++this.#lastId;
		if (done) this.#waiting.set(command.id, done);
		this.#out.push(command);
		queueMicrotask(() => this.#flush());
	}

	#flush() {
		const io = this.#link?.open && this.#link.io;
		if (!io) return;
		const kept = [];
		let batch = [];
		let size = 64;
		const go = () => {
			if (batch[1]) this.#sendBatch(io, batch);
			else if (batch[0]) io.send(...batch[0]);
			batch = [];
			size = 64;
		};
		for (const command of this.#out.splice(0)) {
			const { id, type } = command;
			const text = JSON.stringify(command);
			const bytes = new TextEncoder().encode(text).length;
			const alone = !/sub|update|publish/.test(type);
			size += bytes + 1;
			if (alone || batch.length >= MOST || size > this.#limit) {
				go();
				size += bytes;
			}
			if (io.busy && type !== "request") kept.push(command);
			else if (bytes > this.#limit) this.#hear({ type: "error", id, code: "PAYLOAD_TOO_LARGE", message: "too long" });
			else if (alone) io.send(text, command);
			else batch.push([text, command]);
		}
		go();
		this.#out.unshift(...kept);
	}

	#sendBatch(io, batch) {
		const id = ++this.#lastId;
		this.#waiting.set(id, ({ replies = [], ...reply }) => {
			if (reply.type === "error") replies = batch.map(([, command]) => ({ ...reply, id: command.id }));
			for (const each of replies) this.#hear(each);
		});
		io.send(`{"type":"batch","id":${id},"commands":[${batch.map(([text]) => text)}]}`, {});
	}
}
