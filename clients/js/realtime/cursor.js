import { RealtimeError } from "./error.js";

const quote = (topic) => encodeURIComponent(topic).replaceAll("!", "%21").replaceAll("~", "%7E");

export const encodeCursor = (positions) =>
	positions
		.slice(0, 200)
		.map(({ topic, epoch, offset }) => `${quote(topic)}!${epoch}!${offset}`)
		.join("~");

export const decodeCursor = (text) =>
	(text ? text.split("~") : []).map((part) => {
		const [, topic, epoch, offset] = /^([^!]+)!([^!]+)!(\d+)$/.exec(part) ?? [];
		if (!topic) throw new RealtimeError("BAD_REQUEST", "not a cursor");
		return { topic: decodeURIComponent(topic), epoch, offset: +offset };
	});

/** Whether nothing is missing between. */
export const reaches = (from, to) => !to || (from?.epoch === to.epoch && from?.offset <= to.offset);
