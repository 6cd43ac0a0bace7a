export class RealtimeError extends Error {
	name = "RealtimeError";

	constructor(code, message, { retry_after, trace_id } = {}) {
		super(message);
		Object.assign(this, { code, retryAfter: retry_after, traceId: trace_id });
	}

	static of(push) {
		return new RealtimeError(push.code, push.message, push);
	}

	toJSON() {
		const { code, message, retryAfter, traceId } = this;
		return { type: "error", code, message, retry_after: retryAfter, trace_id: traceId };
	}
}
