// The busiest topics and the slowest connections, and all that is known about one of these.
import { arrange, find, hold, make, say, steady, title } from "./live-dom.js";
import { bytes, count, rate, shorten, span, words } from "./live-format.js";

const MOST_SUBSCRIPTIONS = 200;

const cell = (...content) => make("td", {}, ...content);
const button = (text) => make("button", { type: "button", class: "name" }, text);

export class Activity {
  #tail;
  #open;
  #ours;

  /** `tail` and `open` are called with a topic and a connection; `ours` tells which connections are this page's. */
  constructor({ tail, open, ours }) {
    this.#tail = tail;
    this.#open = open;
    this.#ours = ours;
  }

  get path() {
    return `activity?topics=${find("topics-most").value}&connections=${find("connections-most").value}`;
  }

  show({ seconds, topics, connections }) {
    // Rates need two looks.
    say(find("topics-empty"), seconds ? "Nothing moved in the last second on a topic that somebody hears." : "Measuring…");
    this.#fill("topics", topics, ({ topic }) => topic, this.#createTopic, showTopic);
    const ours = this.#ours();
    this.#fill("connections", connections, ({ id }) => id, this.#createConnection, (row, each) => showConnection(row, each, ours));
  }

  #fill(name, things, keyOf, create, update) {
    const body = find(name);
    arrange(body, steady(body, things, keyOf), keyOf, create, update);
    find(`${name}-empty`).hidden = things.length > 0;
    hold(body.closest(".scroll"));
  }

  #createTopic = ({ topic }) => {
    const name = button(topic);
    title(name, `Tail ${topic}`);
    name.addEventListener("click", () => this.#tail(topic));
    return make("tr", {}, make("th", { scope: "row" }, name), cell(), cell(), cell());
  };

  #createConnection = ({ id }) => {
    const name = button(id);
    title(name, `Details of ${id}`);
    name.addEventListener("click", () => this.#open(id));
    const cells = Array.from({ length: 7 }, () => cell());
    return make("tr", {}, make("th", { scope: "row" }, name, make("span", { class: "mark" })), ...cells);
  };
}

function showTopic({ cells }, { messages_per_second, deliveries_per_second, subscribers }) {
  say(cells[1], rate(messages_per_second));
  say(cells[2], rate(deliveries_per_second));
  say(cells[3], count(subscribers));
}

function showConnection({ cells }, each, ours) {
  say(cells[0].lastChild, ours.includes(each.id) ? "this page" : "");
  say(cells[1], shorten(each.user ?? "–", 40));
  say(cells[2], count(each.queue_messages));
  say(cells[3], bytes(each.queue_bytes));
  say(cells[4], each.queue_age ? span(each.queue_age) : "–");
  say(cells[5], span(each.heard_seconds_ago));
  say(cells[6], each.transport);
  say(cells[7], each.address);
}

/** The dialog about one connection. */
export class Details {
  #api;
  #id;
  #gone = false;
  /** The key is known not to have the right `admin`. */
  #denied = false;
  #dialog = find("details");

  constructor(api) {
    this.#api = api;
    find("details-close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => (this.#id = undefined));
    find("disconnect").addEventListener("click", () => this.#ask(true));
    find("disconnect-no").addEventListener("click", () => this.#ask(false));
    find("disconnect-yes").addEventListener("click", () => this.#disconnect());
  }

  get path() {
    return this.#id && !this.#gone ? `connections/${encodeURIComponent(this.#id)}` : null;
  }

  open(id) {
    this.#id = id;
    this.#gone = false;
    say(find("details-title"), id);
    say(find("details-said"), "");
    say(find("details-count"), "");
    find("details-facts").replaceChildren();
    find("details-subscriptions").replaceChildren();
    this.#ask(false);
    this.#dialog.showModal();
  }

  /** Another key. */
  renew() {
    this.#denied = false;
    this.#ask(false);
  }

  show({ connection, subscriptions }) {
    if (connection.id !== this.#id) return;
    const facts = {
      user: connection.user ?? "nobody",
      address: connection.address,
      transport: connection.transport,
      connected: span(connection.connected_seconds),
      "last heard": `${span(connection.heard_seconds_ago)} ago`,
      "last command": `${span(connection.idle_seconds)} ago`,
      commands: count(connection.commands),
      "requests under way": count(connection.requests),
      queue: `${count(connection.queue_messages)} messages, ${bytes(connection.queue_bytes)}, ${span(connection.queue_age)}`,
    };
    arrange(find("details-facts"), Object.entries(facts), ([name]) => name, createFact, (row, [, value]) => say(row.lastChild, value));
    const shown = subscriptions.slice(0, MOST_SUBSCRIPTIONS);
    const more = subscriptions.length > shown.length ? `, the first ${shown.length}` : "";
    say(find("details-count"), `${count(subscriptions.length)}${more}`);
    arrange(find("details-subscriptions"), shown, ({ topic }) => topic, createSubscription, showSubscription);
  }

  fail({ status, code, message }, path) {
    if (path !== this.path) return; // about another one, or known to have gone by now
    if (status === 404) this.#end("It has gone. What stands here is the last that was known.");
    else say(find("details-said"), `${code}: ${message}`);
  }

  #ask(sure) {
    const why = this.#denied ? "This key has not the right admin." : this.#api.key ? "" : "This needs an API key with the right admin.";
    find("disconnect").disabled = Boolean(why) || this.#gone;
    find("disconnect").hidden = sure;
    say(find("disconnect-why"), why);
    find("disconnect-sure").hidden = !sure;
    if (sure) find("disconnect-no").focus();
    else if (this.#dialog.open) find("details-close").focus();
  }

  async #disconnect() {
    const id = this.#id;
    this.#ask(false);
    try {
      await this.#api.post(`connections/${encodeURIComponent(id)}/disconnect`);
      if (id === this.#id) this.#end("Disconnected.");
    } catch (error) {
      this.#denied = error.status === 403;
      if (id !== this.#id) return;
      this.#ask(false);
      if (error.status === 404) this.#end("It had gone already.");
      else say(find("details-said"), error.code ? `${error.code}: ${error.message}` : "The server did not answer.");
    }
  }

  #end(text) {
    this.#gone = true;
    say(find("details-said"), text);
    this.#ask(false);
  }
}

const createFact = ([name]) => make("div", {}, make("dt", {}, name), make("dd"));

const createSubscription = ({ topic }) =>
  make("tr", {}, make("th", { scope: "row" }, topic), ...Array.from({ length: 6 }, () => cell()));

function showSubscription({ cells }, each) {
  const drops = Object.entries(each.dropped).map(([reason, n]) => `${count(n)} ${words(reason)}`);
  const view = [each.mode];
  if (each.max_rate) view.push(`${each.max_rate}/s`);
  if (each.fields) view.push(each.fields.join(" "));
  if (each.filter) view.push(JSON.stringify(each.filter));
  say(cells[1], shorten(view.join(", "), 80));
  title(cells[1], view.join(", "));
  say(cells[2], count(each.delivered));
  say(cells[3], count(each.queued));
  say(cells[4], drops.join(", ") || "0");
  say(cells[5], count(each.conflated));
  say(cells[6], count(each.filtered));
}
