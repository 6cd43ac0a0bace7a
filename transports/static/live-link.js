// The page's own peer: one client, and what the page wants to hear, which outlives the client.
//
// A client has one view of a topic. Where two parts of the page want two, the second gets a client beside the first.
import { connect } from "/realtime.js";

class Wish {
  #link;
  #offs = [];
  #sub;
  #position;

  constructor(link, topic, options, listeners) {
    Object.assign(this, { topic, options, listeners });
    this.#link = link;
  }

  open(client) {
    const { recover, ...view } = this.options;
    this.client = client;
    try {
      this.#sub = client.subscribe(this.topic, { ...view, recover: this.#position ?? recover });
    } catch (error) {
      this.listeners.ended?.(error);
      return;
    }
    for (const [event, listener] of Object.entries(this.listeners)) this.#offs.push(this.#sub.on(event, listener));
  }

  /** What comes from its client is not for this wish any more. */
  detach() {
    for (const off of this.#offs.splice(0)) off();
    const at = this.#sub?.position;
    if (at) this.#position = { epoch: at.epoch, offset: at.offset };
  }

  update(changes) {
    this.options = { ...this.options, ...changes };
    return this.#sub?.update(changes) ?? Promise.resolve();
  }

  stop() {
    this.detach();
    this.#sub?.unsubscribe();
    this.#link.forget(this);
  }
}

export class Link {
  #client;
  #beside;
  #wishes = new Set();
  #onChange;
  #token = "";
  #transports;

  constructor(onChange) {
    this.#onChange = onChange;
  }

  get connection() {
    return this.#client?.connection ?? null;
  }

  get user() {
    return this.#client?.user ?? null;
  }

  /** Every connection that is this page's. */
  get connections() {
    return [this.#client?.connection, this.#beside?.connection].filter(Boolean);
  }

  /** A new client; what the old one had heard last is where it goes on. */
  start(token, transport) {
    this.#token = token;
    this.#transports = transport ? [transport] : undefined;
    for (const wish of this.#wishes) wish.detach();
    this.#client?.close();
    this.#beside?.close();
    this.#beside = undefined;
    const client = (this.#client = this.#connect());
    client.on("state", (change) => client === this.#client && this.#onChange(change));
    for (const wish of this.#wishes) wish.open(this.#place(wish));
    this.#onChange({ state: client.state, transport: client.transport });
  }

  again() {
    this.#client?.reconnect();
    this.#beside?.reconnect();
  }

  subscribe(topic, options, listeners) {
    const wish = new Wish(this, topic, options, listeners);
    this.#wishes.add(wish);
    if (this.#client) wish.open(this.#place(wish));
    return wish;
  }

  forget(wish) {
    this.#wishes.delete(wish);
    if (this.#beside && ![...this.#wishes].some(({ client }) => client === this.#beside)) {
      this.#beside.close();
      this.#beside = undefined;
    }
  }

  async publish(...message) {
    if (!this.#client) throw new Error("there is no connection");
    return this.#client.publish(...message);
  }

  #place(wish) {
    const taken = [...this.#wishes].some((other) => other !== wish && other.topic === wish.topic && other.client === this.#client);
    return taken ? (this.#beside ??= this.#connect()) : this.#client;
  }

  #connect() {
    const chosen = this.#transports;
    return connect("", { token: this.#token || null, ...(chosen && { transports: chosen, remember: false }) });
  }
}
