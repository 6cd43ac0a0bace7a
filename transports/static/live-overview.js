// The numbers of the whole server: now, over the last five minutes, and since its start.
import { Chart } from "./live-chart.js";
import { arrange, find, make, say } from "./live-dom.js";
import { count, rate, span, words } from "./live-format.js";

const SECONDS = 300;
const MOST_ROWS = 100;

const TILES = [
  { name: "Connections", of: (stats) => stats.connections, note: ({ transports }) => mixture(transports) },
  { name: "Users", of: (stats) => stats.users },
  { name: "Topics", of: (stats) => stats.hub.topics },
  { name: "Subscriptions", of: (stats) => stats.hub.subscriptions },
  { name: "Messages/s", total: (stats) => stats.hub.published },
  { name: "Deliveries/s", total: (stats) => stats.hub.delivered },
  { name: "Dropped/s", total: (stats) => sum(stats.hub.dropped), bad: true },
  { name: "Conflated/s", total: (stats) => stats.hub.conflated },
];

const sum = (counts) => Object.values(counts).reduce((all, one) => all + one, 0);
const mixture = (transports) => Object.entries(transports).map(([name, n]) => `${count(n)} ${name}`).join(", ");
const each = (counts, prefix = "") => Object.entries(counts).map(([name, value]) => [prefix + words(name), value]);

/** Groups of [name, how many, what it says instead of a number]. */
function groups({ hub, refused, audit, presence, progress, feeds, actions, ...stats }) {
  const dropped = each(hub.dropped, "dropped: ");
  const gaps = each(hub.gaps, "gaps told: ");
  return [
    ["Delivery", [
      ["published", hub.published],
      ["delivered", hub.delivered],
      ...(dropped.length ? dropped : [["dropped", 0]]),
      ...(gaps.length ? gaps : [["gaps told", 0]]),
      ["conflated", hub.conflated],
      ["filtered", hub.filtered],
      ["duplicates", stats.duplicates],
    ]],
    ["Refused, by reason", each(refused)],
    ["Audit", each(audit)],
    ["Presence", [
      ["topics now", presence.topics, true],
      ["members now", presence.members, true],
      ["joins", presence.joins],
      ["leaves", presence.leaves],
    ]],
    ["Ingress", [
      ["messages now", hub.ingress_messages, true],
      ["bytes now", hub.ingress_bytes, true],
      ["waits", hub.ingress_waits],
      ["topics held back now", hub.held_topics, true],
    ]],
    ["Logins", [
      ["tickets issued", stats.tickets_issued],
      ["tickets redeemed", stats.tickets_redeemed],
      ["tickets refused", stats.tickets_refused],
      ["revoked", stats.revoked],
      ["refused as revoked", stats.revoked_refused],
    ]],
    ["Sessions", [
      ["running now", progress.running, true],
      ["kept now", progress.kept, true],
      ["created", progress.created],
      ["events", progress.events],
      ...each(progress.ended),
    ]],
    ...(feeds.length ? [["Feeds", feeds.slice(0, MOST_ROWS).map(feedRow)]] : []),
    ...(actions.length ? [["Actions", actions.slice(0, MOST_ROWS).flatMap(actionRows)]] : []),
  ];
}

const feedRow = ({ name, topic, state, restarts, last_error }) => [
  topic ? `${name} ${topic}` : name,
  restarts,
  `${state}${restarts ? `, ${count(restarts)} restarts` : ""}${last_error ? `, ${last_error}` : ""}`,
];

const actionRows = ({ name, calls, in_flight, failed, timed_out, refused }) =>
  [
    [name, calls],
    [`${name}: under way now`, in_flight, true],
    [`${name}: failed`, failed],
    [`${name}: timed out`, timed_out],
    [`${name}: refused`, refused],
  ].filter(([, value], index) => value || !index);

class Tile {
  constructor({ name, of, total, note, bad }) {
    Object.assign(this, { of, total, note, bad });
    this.chart = new Chart({ seconds: SECONDS, most: SECONDS + 10 });
    this.value = make("span", { class: "value" }, "–");
    this.more = make("span", { class: "more" });
    this.element = make("div", { class: "tile" }, make("span", { class: "name" }, name), this.value, this.chart.element, this.more);
  }

  show(stats, before) {
    const now = stats.uptime_seconds;
    if (this.total) {
      if (!before) return;
      this.#add(now, Math.max(0, this.total(stats) - this.total(before)) / (now - before.uptime_seconds), rate);
    } else {
      this.#add(now, this.of(stats), count);
    }
    say(this.more, this.note?.(stats) || `peak ${(this.total ? rate : count)(this.chart.peak)}`);
  }

  #add(now, value, format) {
    this.chart.add(now, value);
    this.chart.draw();
    say(this.value, format(value));
    this.element.toggleAttribute("data-bad", Boolean(this.bad && value));
  }
}

export class Overview {
  #tiles = TILES.map((tile) => new Tile(tile));
  #before;

  constructor() {
    find("tiles").append(...this.#tiles.map(({ element }) => element));
  }

  show(stats) {
    // The server's own clock: an answer that was late is no peak, and one that starts anew has no rates yet.
    if (this.#before && stats.uptime_seconds < this.#before.uptime_seconds) {
      this.#before = undefined;
      for (const { chart } of this.#tiles) chart.clear();
    }
    const before = this.#before;
    if (before && stats.uptime_seconds <= before.uptime_seconds) return;
    for (const tile of this.#tiles) tile.show(stats, before);
    this.#showCounters(stats, before);
    say(find("uptime"), `up ${span(stats.uptime_seconds)}`);
    this.#before = stats;
  }

  #showCounters(stats, before) {
    const seconds = before && stats.uptime_seconds - before.uptime_seconds;
    const old = new Map(before ? groups(before).map(([name, rows]) => [name, new Map(rows)]) : []);
    arrange(find("counters"), groups(stats), ([name]) => name, createGroup, (group, [name, rows]) => {
      const [, list, none] = group.children;
      none.hidden = rows.length > 0;
      arrange(list, rows, ([row]) => row, createRow, (line, [row, value, instead]) => {
        const [, number, change] = line.children;
        const grown = seconds && instead === undefined ? (value - (old.get(name)?.get(row) ?? 0)) / seconds : 0;
        say(number, typeof instead === "string" ? instead : count(value));
        say(change, grown > 0 ? `${rate(grown)}/s` : "");
        line.toggleAttribute("data-none", !value && typeof instead !== "string");
      });
    });
  }
}

const createGroup = ([name]) =>
  make("div", { class: "group" }, make("h3", {}, name), make("dl"), make("p", { class: "help" }, "none"));

const createRow = ([name]) => make("div", {}, make("dt", {}, name), make("dd"), make("dd", { class: "change" }));
