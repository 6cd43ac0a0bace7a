import { Client } from "./client.js";
import { decodeCursor, reaches } from "./cursor.js";
import { RealtimeError } from "./error.js";

const at = (positions, name) => positions.find(({ topic }) => topic === name);
const unwire = ({ max_rate: maxRate, ...view }) => ({ ...view, maxRate });
const keyOf = (topic, { fields, filter, mode, max_rate }) => JSON.stringify([topic, fields, filter, mode, max_rate]);

const lost = new RealtimeError("UNAVAILABLE", "no answer");

/**
 * The server of the tabs. Its first client is for all. Another one brings a second view of a topic, or what a tab has
 * missed, until that has caught up: what comes twice tabs drop, as they know their positions.
 */
export class Hub {
	#tabs = new Map();
	#clients = [];
	#feeds = new Set(); // a subscription and its tabs, each with the id that waits for an answer
	#asked = new Map();

	hear(id, data, post) {
		const tab = this.#tabs.get(id);
		if (data.type === "hello") tab ?? this.#greet(id, data, post);
		else if (data.type === "token") this.#asked.get(data.n)?.(data.token);
		else if (tab) this.#obey(tab, JSON.parse(data));
	}

	close() {
		this.#tabs.forEach((_, id) => this.#drop(id));
	}

	#greet(id, hello, post) {
		const tab = { ...hello, post, at: decodeCursor(hello.cursor), calls: new Map() };
		const [main] = this.#clients;
		this.#tabs.set(id, tab);
		navigator.locks.request(hello.lock, () => this.#drop(id));
		tab.client = main && this.#current(main, tab.at) ? main : this.#open(hello);
		if (tab.client.state === "failed") tab.client.reconnect();
		if (tab.client.state === "connected") this.#welcome(tab);
		else post({ type: "state", state: tab.client.state });
	}

	/** Whether a client brings all that follows these positions. */
	#current({ placed }, positions) {
		return placed.every((each) => reaches(each, at(positions, each.topic)));
	}

	#welcome(tab) {
		const { connection, user, transport, placed } = tab.client;
		const topics = placed.map((each) => {
			const before = at(tab.at, each.topic);
			return { ...each, recovered: before && reaches(each, before) ? "full" : "none" };
		});
		tab.welcomed = true;
		tab.post({ type: "welcome", connection, user, transport, topics });
	}

	#drop(id) {
		const tab = this.#tabs.get(id);
		if (!this.#tabs.delete(id)) return;
		for (const call of tab.calls.values()) call.abort(lost);
		this.#leave(tab);
		this.#settle();
	}

	#open({ url, cursor, token, options }) {
		const client = new Client(url, { ...options, cursor, token: token === true ? (why) => this.#ask(why) : token });
		const followers = () => [...this.#tabs.values()].filter((tab) => tab.client === client);
		this.#clients.push(client);
		client.on("state", ({ state, error, ...change }) => {
			for (const tab of followers()) {
				if (state === "failed")
					[error.toJSON(), { type: "disconnect", reconnect: false }, { type: "end" }].forEach(tab.post);
				else if (state === "connected" && !tab.welcomed) this.#welcome(tab);
				else tab.post({ type: "state", state, ...change, error: error?.toJSON() });
			}
			for (const feed of this.#feeds)
				if (state === "failed" && feed.client === client) feed.sub.unsubscribe(feed.sub._stop(error));
			this.#settle();
		});
		this.#pass(client, ["message", "gap"], followers);
		return client;
	}

	#pass(source, types, tabs) {
		for (const type of types)
			source.on(type, (push) => {
				for (const tab of tabs()) tab.post(push);
				this.#settle();
			});
	}

	async #ask({ reason }) {
		const n = Math.random();
		const tabs = this.#tabs.values();
		for (let silent = 0; ;) {
			const { value: tab } = tabs.next();
			if (tab) tab.post({ type: "token", n, reason }, silent++);
			else if (silent-- < 1) throw lost;
			const token = await new Promise((resolve) => {
				this.#asked.set(n, (found) => resolve(found, silent--, this.#asked.delete(n)));
				setTimeout(resolve, tab ? 5000 : 60_000); // it is frozen, or slow
			});
			if (token !== undefined) return token;
		}
	}

	#obey(tab, command) {
		const { type, id, topic, ...rest } = command;
		const answer = (reply) => reply && tab.post({ ...reply, id });
		if (type === "batch") {
			for (const each of rest.commands) this.#obey(tab, each);
			answer({});
		} else if (type === "subscribe") this.#join(tab, id, topic, rest);
		else if (type === "unsubscribe") this.#leave(tab, topic);
		else if (type === "forget") tab.calls.get(id)?.abort(lost);
		else {
			const abort = new AbortController();
			tab.calls.set(id, abort);
			const options = { timeout: Infinity, signal: abort.signal };
			const call = () => this.#clients[0]._call({ type, topic, ...rest }, options);
			(type === "update" ? this.#update(tab, id, topic, rest) : call())
				.then(answer, (error) => answer(error.toJSON()))
				.then(() => tab.calls.delete(id));
		}
	}

	async #update(tab, id, topic, changes) {
		const feed = [...this.#feeds].filter((each) => each.topic === topic && each.tabs.has(tab)).pop();
		if (!feed) throw new RealtimeError("NOT_SUBSCRIBED", "not subscribed");
		const view = { ...feed.view, ...changes };
		if (feed.tabs.size > 1) return this.#join(tab, id, topic, { ...view, recover: feed.sub.position });
		feed.key = NaN; // for nobody else now
		try {
			await feed.sub.update(unwire(view));
			feed.view = view;
			return {};
		} finally {
			feed.key = keyOf(topic, feed.view);
		}
	}

	#join(tab, id, topic, { recover, ...view }) {
		const key = keyOf(topic, view);
		const feeds = [...this.#feeds].filter((each) => each.topic === topic);
		let feed = feeds.find((each) => each.key === key && reaches(each.sub.position, recover));
		if (feed) {
			feed.tabs.set(tab, id);
			return feed.live && feed.stand({ type: "subscribed", topic, ...feed.sub.position, recovered: recover && "full" });
		}
		const client =
			this.#clients.find((each) => !feeds.some((other) => other.client === each)) ?? this.#open({ ...tab, cursor: "" });
		const sub = client.subscribe(topic, { ...unwire(view), recover });
		const waiting = new Map([[tab, id]]);
		const stand = (reply) => {
			feed.live = true;
			for (const [each, waits] of waiting) {
				if (waits) this.#leave(each, topic, feed);
				if (waits) each.post({ ...reply, id: waits });
				waiting.set(each);
			}
			this.#settle();
		};
		feed = { client, topic, view, key, sub, stand, tabs: waiting };
		this.#feeds.add(feed);
		sub.on("subscribed", stand);
		this.#pass(sub, ["message", "gap", "join", "leave", "presence"], () => waiting.keys());
		sub.on("ended", (error) => {
			this.#feeds.delete(feed);
			const said = { ...error?.toJSON(), topic, final: client.state === "failed" };
			for (const [each, id] of waiting) each.post({ ...said, type: id ? "error" : "unsubscribed", id });
		});
	}

	#leave(tab, topic, but) {
		for (const feed of this.#feeds) {
			if (feed === but || (topic && feed.topic !== topic)) continue;
			if (feed.tabs.delete(tab) && !feed.tabs.size) feed.sub.unsubscribe();
		}
	}

	/** Bring together who has caught up, and close what nobody needs. */
	#settle() {
		const [main] = this.#clients;
		if (this.#clients.length > 1) {
			const feeds = [...this.#feeds].filter(({ live }) => live);
			for (const feed of feeds) {
				const one = feeds.find(({ key, client }) => key === feed.key && client === main);
				if (!one || one === feed || !reaches(one.sub.position, feed.sub.position)) continue;
				for (const tab of feed.tabs.keys()) one.tabs.set(tab);
				feed.tabs.clear();
				feed.sub.unsubscribe();
			}
			for (const tab of this.#tabs.values())
				if (tab.welcomed && this.#current(main, tab.client.placed)) tab.client = main;
		}
		const users = [...this.#tabs.values(), ...this.#feeds];
		const used = (client) => (client === main ? this.#tabs.size : users.some((user) => user.client === client));
		this.#clients = this.#clients.filter((client) => used(client) || client.close());
	}
}
