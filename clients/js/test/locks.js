// Web Locks for Node before 24, as much as tabs need: exclusive, first come first served.
export class Locks {
	#queues = new Map();

	request(name, ...rest) {
		const hold = rest.pop();
		const { signal } = rest[0] ?? {};
		return new Promise((resolve, reject) => {
			const queue = this.#queues.get(name) ?? [];
			this.#queues.set(name, queue);
			const next = () => queue[0]?.();
			const entry = async () => {
				resolve(await hold({ name }));
				queue.shift();
				next();
			};
			signal?.addEventListener("abort", () => {
				const place = queue.indexOf(entry);
				if (place > 0) queue.splice(place, 1);
				reject(signal.reason);
			});
			if (queue.push(entry) === 1) queueMicrotask(next);
		});
	}
}
