import { Client } from "./client.js";
import { decodeCursor, reaches } from "./cursor.js";
import { RealtimeError } from "./error.js";

const at = (positions, name) => positions.find(({ topic }) => topic === name);

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
		if (data.type === "hello") this.#greet(id, data, post);
		else if (data.type === "token") this.#asked.get(data.n)?.(data.token);
		else if (this.#tabs.has(id)) this.#obey(this.#tabs.get(id), JSON.parse(data));
	}

	close() {
		for (const id of this.#tabs.keys()) this.#drop(id);
	}

	#greet(id, hello, post) {
		if (this.#tabs.has(id)) return;
		const tab = { ...hello, post, at: decodeCursor(hello.cursor) };
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
		return placed.every((position) => reaches(position, at(positions, position.topic)));
	}

	#welcome(tab) {
		const { connection, user, transport, placed } = tab.client;
		const topics = placed.map((position) => {
			const before = at(tab.at, position.topic);
			return { ...position, recovered: before && reaches(position, before) ? "full" : "none" };
		});
		tab.welcomed = true;
		tab.post({ type: "welcome", connection, user, transport, topics });
	}

	#drop(id) {
		const tab = this.#tabs.get(id);
		if (!this.#tabs.delete(id)) return;
		this.#leave(tab);
		this.#settle();
	}

	#open({ url, cursor, token, options }) {
		const ask = ({ reason }) => this.#ask(reason);
		const client = new Client(url, { ...options, cursor, token: token === true ? ask : token });
		const followers = () => [...this.#tabs.values()].filter((tab) => tab.client === client);
		this.#clients.push(client);
		client.on("state", ({ state, error, ...change }) => {
			for (const tab of followers()) {
				if (state === "failed")
					[error.toJSON(), { type: "disconnect", reconnect: false }, { type: "end" }].forEach(tab.post);
				else if (state === "connected" && !tab.welcomed) this.#welcome(tab);
				else tab.post({ type: "state", state, ...change, error: error?.toJSON() });
			}
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

	async #ask(reason) {
		for (const { post } of this.#tabs.values()) {
			const n = Math.random();
			const token = await new Promise((resolve) => {
				this.#asked.set(n, resolve);
				post({ type: "token", n, reason });
				setTimeout(resolve, 5000); // it is frozen
			});
			this.#asked.delete(n);
			if (token !== undefined) return token;
		}
		throw new RealtimeError("UNAVAILABLE", "no tab answers");
	}

	#obey(tab, command) {
		const { type, id, topic, ...rest } = command;
		const answer = (reply) => tab.post({ ...reply, id });
		if (type === "batch") {
			for (const each of rest.commands) this.#obey(tab, each);
			answer({});
		} else if (type === "subscribe") this.#join(tab, id, topic, rest);
		else if (type === "unsubscribe") this.#leave(tab, topic);
		else if (type === "update") {
			const { view, sub } = [...this.#feeds].find((feed) => feed.topic === topic && feed.tabs.has(tab)) ?? {};
			this.#leave(tab, topic);
			this.#join(tab, id, topic, { ...view, ...rest, recover: sub?.position });
		} else this.#clients[0]._call(command, { timeout: 60_000 }).then(answer, (error) => answer(error.toJSON()));
	}

	#join(tab, id, topic, { recover, ...view }) {
		const { max_rate: maxRate, ...same } = view;
		const key = JSON.stringify([topic, view]);
		const feeds = [...this.#feeds].filter((feed) => feed.topic === topic);
		let feed = feeds.find((each) => each.key === key && reaches(each.sub.position, recover));
		if (feed?.live) tab.post({ type: "subscribed", id, topic, ...feed.sub.position, recovered: recover && "full" });
		if (feed) return feed.tabs.set(tab, feed.live ? undefined : id);
		const client =
			this.#clients.find((each) => feeds.every((other) => other.client !== each)) ?? this.#open({ ...tab, cursor: "" });
		const sub = client.subscribe(topic, { ...same, maxRate, recover });
		const waiting = new Map([[tab, id]]);
		feed = { client, topic, view, key, sub, tabs: waiting };
		this.#feeds.add(feed);
		sub.on("subscribed", (reply) => {
			feed.live = true;
			for (const [each, waits] of waiting) {
				if (waits) each.post({ ...reply, id: waits });
				waiting.set(each);
			}
			this.#settle();
		});
		this.#pass(sub, ["message", "gap", "join", "leave", "presence"], () => waiting.keys());
		sub.on("ended", (error) => {
			this.#feeds.delete(feed);
			for (const [each, waits] of waiting)
				each.post({ ...error?.toJSON(), type: waits ? "error" : "unsubscribed", topic, id: waits });
		});
	}

	#leave(tab, topic) {
		for (const feed of this.#feeds) {
			if ((!topic || feed.topic === topic) && feed.tabs.delete(tab) && !feed.tabs.size) this.#end(feed);
		}
	}

	#end(feed) {
		this.#feeds.delete(feed);
		feed.tabs.clear();
		feed.sub.unsubscribe();
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
				this.#end(feed);
			}
			for (const tab of this.#tabs.values())
				if (tab.welcomed && this.#current(main, tab.client.placed)) tab.client = main;
		}
		const users = [...this.#tabs.values(), ...this.#feeds];
		const used = (client) => (client === main ? this.#tabs.size : users.some((user) => user.client === client));
		for (const client of this.#clients) used(client) || client.close();
		this.#clients = this.#clients.filter(used);
	}
}
