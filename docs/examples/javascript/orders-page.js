// What a page has and Node 20 has not: an address of its own, and an EventSource. "show" prints. Waits are a tenth as long.
const origin = process.argv[2];
const { fetch, setTimeout } = globalThis;

export const show = (orders) => console.log(JSON.stringify(orders));

globalThis.location = { origin };
globalThis.setTimeout = (callback, ms, ...more) => setTimeout(callback, ms / 10, ...more);
globalThis.fetch = (path, options) => fetch(new URL(path, origin), options);

globalThis.EventSource = class extends EventTarget {
  constructor(path) {
    super();
    this.addEventListener("message", (event) => this.onmessage?.(event));
    this.#run(path);
  }

  async #run(path) {
    let lastEventId = "";
    for (let retry = 1000; ; await new Promise((resolve) => globalThis.setTimeout(resolve, retry))) {
      try {
        const { body } = await globalThis.fetch(path, { headers: lastEventId ? { "last-event-id": lastEventId } : {} });
        let rest = "";
        for await (const text of body.pipeThrough(new TextDecoderStream())) {
          const events = (rest + text).split("\n\n");
          rest = events.pop();
          for (const event of events) {
            const fields = Object.fromEntries(event.split("\n").map((line) => /^(\w*): ?(.*)/.exec(line)?.slice(1) ?? []));
            lastEventId = fields.id ?? lastEventId;
            retry = +(fields.retry ?? retry);
            if (!fields.data) continue;
            this.dispatchEvent(Object.assign(new Event(fields.event ?? "message"), { data: fields.data, lastEventId }));
          }
        }
      } catch {} // it comes again, as in a browser
    }
  }
};
