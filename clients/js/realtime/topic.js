import { reaches } from "./cursor.js";

export class Topic {
	subs = new Set();
	position;
	live = false; // on this connection

	constructor(name, placed) {
		Object.assign(this, { name, placed }); // by the server
	}

	ask(view, recover, key) {
		Object.assign(this, { view, key, recover });
		if (recover?.epoch) this.position = recover;
	}

	get plain() {
		return Object.values({ ...this.view, recover: this.recover }).every((value) => value == null);
	}

	/** What is missing then. */
	stand({ epoch, offset, recovered = "none", why = "no_history", replayed = 0 }) {
		const before = this.position;
		const same = before?.epoch === epoch;
		const known = same && this.plain;
		this.live = true;
		this.recover = undefined;
		if (recovered !== "none") {
			if (!same) this.position = { epoch, offset: offset - replayed };
		} else if (!same || offset > before.offset) {
			this.position = { epoch, offset };
			const from = same ? before.offset + 1 : 1;
			const count = known ? offset - before.offset : null;
			if (before)
				return { type: "gap", topic: this.name, epoch, from, to: offset, count, reason: why, recoverable: false };
		}
	}

	pass(epoch, offset) {
		const fresh = !reaches({ epoch, offset }, this.position ?? {});
		if (fresh) this.position = { epoch, offset };
		return fresh;
	}

	tell(event, push) {
		for (const sub of [...this.subs]) sub._tell(event, push);
	}
}
