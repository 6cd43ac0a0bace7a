/** With full jitter. */
export function backoff(failures, { minDelay, maxDelay }) {
	const ceiling = Math.max(minDelay, Math.min(maxDelay, minDelay * 2 ** failures));
	return failures ? minDelay + Math.random() * (ceiling - minDelay) : Math.random() * minDelay;
}
