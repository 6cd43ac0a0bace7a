// The newest values of chosen topics. Drawn at most once a frame; nothing moves but the figures.
import { Chart } from "./live-chart.js";
import { eachFrame, find, make, say, title } from "./live-dom.js";
import { clock, count, decimals, fixed, shorten } from "./live-format.js";
import { recall, remember } from "./live-memory.js";
import { fieldsOf } from "./live-tail.js";

const MOST_ROWS = 100;
const MOST_COLUMNS = 8;
const TREND = { seconds: 120, most: 240, fromZero: false };
const SIGNS = { up: "▲", down: "▼", none: "" };

const isPlain = (value) => value === null || typeof value !== "object";

class Cell {
  element = make("td");
  #sign = make("span", { class: "sign" });
  #text = make("span");
  #before;
  #places = 0;

  constructor() {
    this.element.append(this.#sign, this.#text);
  }

  show(value) {
    if (value === undefined) return;
    if (typeof value !== "number") {
      const text = isPlain(value) ? String(value) : JSON.stringify(value);
      say(this.#text, shorten(text, 40));
      this.#move("none", "");
      this.#before = undefined;
      return;
    }
    // As many places as it ever had: or the figures would dance.
    this.#places = Math.max(this.#places, decimals(value));
    say(this.#text, fixed(value, this.#places));
    if (this.#before !== undefined && value !== this.#before) {
      const up = value > this.#before;
      this.#move(up ? "up" : "down", up ? "up" : "down");
    }
    this.#before = value;
  }

  #move(direction, words) {
    if (this.element.dataset.move !== direction) this.element.dataset.move = direction;
    say(this.#sign, SIGNS[direction]);
    if (words) this.#sign.setAttribute("aria-label", words);
  }
}

class Row {
  #names = [];
  #cells = new Map();
  #updated = make("td", { class: "when" });
  #trend = new Chart(TREND);
  #trendCell = make("td", { class: "trend" }, this.#trend.element);
  #last = make("td");
  #why = make("span", { class: "why" });
  latest = null;
  wish = null;
  /** It hears nothing any more. */
  ended = false;
  /** There was more after its values, which is lost. */
  old = false;

  constructor(topic, { remove, tail }) {
    this.topic = topic;
    const name = make("button", { type: "button", class: "name" }, topic);
    title(name, `Tail ${topic}`);
    name.addEventListener("click", () => tail(topic));
    const away = make("button", { type: "button", class: "quiet remove", "aria-label": `Remove ${topic}` }, "×");
    away.addEventListener("click", () => remove(topic));
    this.#last.append(away);
    this.element = make("tr", {}, make("th", { scope: "row" }, name, this.#why));
  }

  columns(names) {
    this.#names = names;
    const name = this.element.firstChild;
    // Where there is nothing but words they have the whole line.
    const bare = this.ended && !this.latest;
    name.colSpan = bare ? names.length + 3 : 1;
    if (bare) return this.element.replaceChildren(name, this.#last);
    const cells = names.map((name) => {
      if (!this.#cells.has(name)) this.#cells.set(name, new Cell());
      return this.#cells.get(name).element;
    });
    this.element.replaceChildren(name, ...cells, this.#trendCell, this.#updated, this.#last);
  }

  hear(message) {
    this.latest = message;
    this.old = false;
    if (!this.ended) return;
    this.ended = false;
    this.tell(null);
    this.columns(this.#names);
  }

  tell(error) {
    say(this.#why, error ? `${error.code}: ${error.message}` : "");
  }

  end(error) {
    this.ended = true;
    this.tell(error);
    this.columns(this.#names);
  }

  draw(names) {
    this.element.toggleAttribute("data-old", this.old);
    say(this.#updated, this.latest ? clock(this.latest.time) : "–");
    if (!this.latest) return;
    const { data, time } = this.latest;
    const values = valuesOf(data);
    for (const name of names) this.#cells.get(name).show(Object.hasOwn(values, name) ? values[name] : undefined);
    const first = names.find((name) => Object.hasOwn(values, name) && typeof values[name] === "number");
    if (first) {
      this.#trend.add(time / 1000, values[first]);
      this.#trend.draw();
    }
  }
}

/** A payload that is no object is a value without a name. */
const valuesOf = (data) => (data !== null && typeof data === "object" && !Array.isArray(data) ? data : { value: data });

export class Board {
  #link;
  #tail;
  #rows = new Map();
  #changed = new Set();
  #columns = [];
  #view;
  #draw = eachFrame(() => this.#flush());

  constructor(link, { tail }) {
    this.#link = link;
    this.#tail = tail;
    this.#view = recall("board view", { fields: [], maxRate: 5 });
    find("board-fields").value = this.#view.fields.join(", ");
    find("board-rate").value = this.#view.maxRate ?? "";
    find("board-add").addEventListener("submit", (event) => {
      event.preventDefault();
      const input = find("board-topic");
      this.#tell("");
      if (this.#add(input.value.trim())) {
        event.target.reset();
        this.#remember();
      }
    });
    find("board-view").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#change();
    });
    this.#head();
  }

  /** With what is remembered; with these where nothing is. May be told of more of them. */
  start(suggested) {
    for (const topic of recall("board", suggested).slice(0, MOST_ROWS)) this.#add(topic);
    this.#draw();
  }

  #add(topic) {
    if (!topic || this.#rows.has(topic)) return Boolean(topic);
    if (this.#rows.size >= MOST_ROWS) {
      this.#tell(`The board is full: it has ${MOST_ROWS} rows.`);
      return false;
    }
    const row = new Row(topic, { remove: (name) => this.#remove(name), tail: this.#tail });
    this.#rows.set(topic, row);
    row.columns(this.#columns);
    find("board-rows").append(row.element);
    const changed = () => {
      this.#changed.add(row);
      this.#draw();
    };
    row.wish = this.#link.subscribe(topic, { ...this.#options(), recover: { last: 1 } }, {
      message: (message) => {
        row.hear(message);
        changed();
      },
      gap: () => {
        row.old = true;
        changed();
      },
      ended: (error) => {
        if (!error) return;
        row.end(error);
      },
    });
    changed();
    this.#head();
    return true;
  }

  #remove(topic) {
    const row = this.#rows.get(topic);
    const next = row.element.nextElementSibling ?? row.element.previousElementSibling;
    row.wish.stop();
    row.element.remove();
    this.#rows.delete(topic);
    this.#changed.delete(row);
    this.#remember();
    this.#head();
    (next?.querySelector(".remove") ?? find("board-topic")).focus();
  }

  #remember() {
    remember("board", [...this.#rows.keys()]);
  }

  #options() {
    const { fields, maxRate } = this.#view;
    return { ...(fields.length && { fields }), ...(maxRate && { maxRate }) };
  }

  async #change() {
    const fields = fieldsOf(find("board-fields").value);
    const maxRate = Number(find("board-rate").value) || null;
    this.#view = { fields, maxRate };
    remember("board view", this.#view);
    this.#columns = [];
    this.#changed = new Set(this.#rows.values());
    this.#draw();
    const changes = { fields: fields.length ? fields : null, maxRate };
    const rows = [...this.#rows.values()].filter(({ ended }) => !ended);
    const errors = await Promise.all(rows.map(({ wish }) => wish.update(changes).then(() => null, (error) => error)));
    // What all are refused is said once.
    const common = errors.length > 1 && errors.every((error) => error?.code === errors[0]?.code) ? errors[0] : null;
    this.#tell(common ? `${common.code}: ${common.message}` : "");
    rows.forEach((row, n) => row.ended || row.tell(common ? null : errors[n]));
  }

  #flush() {
    const { fields } = this.#view;
    const wanted = new Set(fields.length ? fields : this.#columns);
    if (!fields.length)
      for (const { latest } of this.#changed)
        if (latest) for (const [name, value] of Object.entries(valuesOf(latest.data))) if (isPlain(value)) wanted.add(name);
    const columns = [...wanted].slice(0, MOST_COLUMNS);
    if (columns.join("\n") !== this.#columns.join("\n")) {
      this.#columns = columns;
      this.#head();
      for (const row of this.#rows.values()) row.columns(columns);
      this.#changed = new Set(this.#rows.values());
    }
    for (const row of this.#changed) row.draw(this.#columns);
    this.#changed.clear();
  }

  #head() {
    const column = (name, more) => make("th", { scope: "col", ...more }, name);
    const remove = column("", {});
    remove.append(make("span", { class: "away" }, "Remove"));
    find("board-head").replaceChildren(
      column("Topic"), ...this.#columns.map((name) => column(name)), column("Trend", { class: "trend" }), column("Updated"), remove,
    );
    const rows = this.#rows.size;
    find("board-empty").hidden = rows > 0;
    find("board").hidden = rows === 0;
    say(find("board-count"), rows ? count(rows) : "");
  }

  #tell(text) {
    say(find("board-said"), text);
  }
}
