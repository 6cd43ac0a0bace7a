import { Events } from "./events.js";

const first = (push) => push.from ?? push.offset;

export class Subscription extends Events {
	#client;
	#topic;
	#limit;
	#queue = [];
	#readers = 0;
	#end;
	#settle;
	#news;
	#tellNews;

	constructor(client, topic, limit = 1000) {
		super();
		this.#client = client;
		this.#topic = topic;
		this.#limit = Math.max(1, limit);
		this.ready = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
		this.ready.catch(() => {});
	}

	get topic() {
		return this.#topic.name;
	}

	get position() {
		return this.#topic.position;
	}

	update(changes) {
		return this.#client._update(this.#topic, changes);
	}

	members(options) {
		return this.#client.members(this.topic, options);
	}

	history(options) {
		return this.#client.history(this.topic, options);
	}

	unsubscribe() {
		this.#client._leave(this.#topic, this);
		this._stop();
	}

	async *[Symbol.asyncIterator]() {
		this.#readers++;
		try {
			for (;;) {
				while (this.#queue.length) yield this.#queue.shift()[0];
				const { final, error } = this.#end ?? {};
				if (!final) this.#end = undefined;
				if (error) throw error;
				if (final) return;
				await (this.#news ??= new Promise((resolve) => (this.#tellNews = resolve)));
			}
		} finally {
			this.#readers--;
		}
	}

	_tell(event, push) {
		if (event === "subscribed") {
			this.#settle.resolve(push);
			this.#end = undefined; // of a client that had failed
		} else if (/message|gap/.test(event) && (this.#readers || !this._heard("message"))) this.#keep(push);
		this._emit(event, push);
	}

	_fail(error, final) {
		this.#settle.reject(error);
		this.#end = { error, final };
		this.#wake();
	}

	_stop(error) {
		if (this.#end?.final) return;
		this._fail(error, true);
		this._emit("ended", error);
	}

	#keep(push) {
		const queue = this.#queue;
		const { topic } = this;
		queue.push([push, this.position.epoch]);
		if (queue.length > this.#limit) {
			// The two oldest become a gap.
			const [[a, before], [b, epoch]] = queue.splice(0, 2);
			const same = before === epoch;
			const count = same && ![a.count, b.count].includes(null) ? (a.count ?? 1) + (b.count ?? 1) : null;
			const from = first(same ? a : b);
			const to = b.to ?? b.offset;
			queue.unshift([{ type: "gap", topic, epoch, from, to, count, reason: "slow_reader", recoverable: false }, epoch]);
		}
		this.#wake();
	}

	#wake() {
		this.#news = this.#tellNews?.();
	}
}
