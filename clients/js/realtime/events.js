export const report = (error) => (globalThis.reportError ?? console.error)(error);

export class Events {
	#all = {};

	on(event, listener) {
		const listeners = (this.#all[event] ??= new Set()).add(listener);
		return () => void listeners.delete(listener);
	}

	_heard(event) {
		return this.#all[event]?.size;
	}

	_emit(event, value) {
		for (const listener of [...(this.#all[event] ?? [])]) {
			try {
				listener(value)?.catch?.(report);
			} catch (error) {
				report(error);
			}
		}
	}
}
