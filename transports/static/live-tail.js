// What is said on one topic, as it is said; and who is there.
import { arrange, eachFrame, find, make, say } from "./live-dom.js";
import { bytes, clock, count, shorten, words } from "./live-format.js";
import { recall, remember } from "./live-memory.js";

const MOST_LINES = 500;
const NEWEST = 20;
const ONE_LINE = 240;
const MOST_MEMBERS = 100;

export const fieldsOf = (text) => [...new Set(text.split(/[\s,]+/).filter(Boolean))].slice(0, 100);

export class Tail {
  #link;
  #wish;
  #subscribed = false;
  #said;
  #log = find("tail");
  #waiting = [];
  #paused = false;
  #missed = 0;
  #heard = 0;
  #draw = eachFrame(() => this.#flush());
  #onTopic;

  constructor(link, onTopic) {
    this.#link = link;
    this.#onTopic = onTopic;
    find("tail-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    find("tail-pause").addEventListener("click", () => this.#pause(!this.#paused));
    find("tail-clear").addEventListener("click", () => this.#clear());
    find("tail-filter").addEventListener("input", () => this.#filter());
    const { topic = "room:lobby", fields = "", filter = "" } = recall("tail", {});
    find("tail-topic").value = topic;
    find("tail-fields").value = fields;
    find("tail-filter").value = filter;
  }

  start() {
    this.#submit();
  }

  open(topic) {
    find("tail-topic").value = topic;
    find("tail-fields").value = "";
    find("tail-filter").value = "";
    this.#submit();
    find("tail-title").scrollIntoView({ block: "nearest" });
  }

  /** Where to ask who is there; a name with a slash has no path. */
  get path() {
    const { topic } = this.#wish ?? {};
    if (!this.#subscribed || !topic || topic.includes("/")) return null;
    const members = find("members").open && !find("members").hidden;
    return `topics/${encodeURIComponent(topic)}${members ? `/members?limit=${MOST_MEMBERS}` : ""}`;
  }

  /** There is no connection: nothing says that the topic is still there. */
  lost() {
    this.#subscribed = false;
  }

  /** Its counters or, while they are shown, its members; null where it is not there: no poll keeps a room alive. */
  showTopic(answer) {
    if (!answer) {
      this.lost();
      find("members").hidden = true;
      return;
    }
    const number = answer.count ?? (Array.isArray(answer.members) ? answer.members.length : answer.members);
    find("members").hidden = number === undefined;
    if (number === undefined) return;
    say(find("members-count"), count(number));
    if (!Array.isArray(answer.members)) return;
    arrange(find("members-list"), answer.members, ({ connection }) => connection, () => make("li"), (line, { user, connection }) =>
      say(line, user === null ? `nobody known (${connection})` : `${user} (${connection})`),
    );
    const more = number - answer.members.length;
    find("members-more").hidden = more <= 0;
    say(find("members-more"), `and ${count(more)} more`);
  }

  #submit() {
    const filter = this.#filter();
    if (filter === undefined) return;
    const topic = find("tail-topic").value.trim();
    const fields = fieldsOf(find("tail-fields").value);
    this.#wish?.stop();
    this.#subscribed = false;
    find("members").hidden = true;
    this.#clear();
    this.#pause(false);
    this.#tell("");
    say(find("tail-name"), topic);
    remember("tail", { topic, fields: fields.join(", "), filter: find("tail-filter").value });
    this.#onTopic(topic);
    const options = { recover: { last: NEWEST }, ...(fields.length && { fields }), ...(filter && { filter }) };
    this.#wish = this.#link.subscribe(topic, options, {
      message: (message) => this.#take(message),
      gap: (gap) => this.#take(gap),
      subscribed: () => {
        this.#subscribed = true;
        this.#tell("");
        this.#count();
      },
      ended: (error) => {
        this.#subscribed = false;
        if (error) this.#tell(`${error.code}: ${error.message}`);
      },
    });
  }

  /** null: there is none; undefined: what stands there is not JSON. */
  #filter() {
    const input = find("tail-filter");
    try {
      const filter = input.value.trim() ? JSON.parse(input.value) : null;
      input.setCustomValidity("");
      return filter;
    } catch (error) {
      input.setCustomValidity(`This is not JSON: ${error.message}`);
      return undefined;
    }
  }

  #tell(text) {
    say(find("tail-said"), text);
  }

  #take(push) {
    if (push.type === "message") this.#heard++;
    this.#subscribed = true;
    this.#waiting.push(push);
    if (this.#waiting.length > MOST_LINES) {
      this.#waiting.shift();
      this.#missed++;
    }
    if (this.#paused) this.#count();
    else this.#draw();
  }

  #flush() {
    if (this.#paused) return;
    const follows = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 40;
    const lines = this.#waiting.splice(0).map((push) => (push.type === "gap" ? gapLine(push) : messageLine(push)));
    if (this.#missed) lines.unshift(noteLine(`${count(this.#missed)} that came meanwhile are not shown`));
    this.#missed = 0;
    this.#log.append(...lines);
    while (this.#log.childElementCount > MOST_LINES) this.#log.firstElementChild.remove();
    if (follows) this.#log.scrollTop = this.#log.scrollHeight;
    this.#count();
  }

  #pause(paused) {
    this.#paused = paused;
    find("tail-pause").setAttribute("aria-pressed", paused);
    if (!paused) this.#draw();
  }

  #clear() {
    this.#log.replaceChildren();
    this.#waiting = [];
    this.#missed = 0;
    this.#heard = 0;
    this.#count();
  }

  #count() {
    const waiting = this.#waiting.length + this.#missed;
    const shown = this.#heard ? `${count(this.#heard)} heard` : this.#subscribed ? "Nothing yet." : "";
    say(find("tail-count"), this.#paused ? `${shown}, ${count(waiting)} wait` : shown);
  }
}

const noteLine = (text) => make("li", { class: "note" }, text);

function gapLine({ from, to, count: lost, reason, recoverable }) {
  // Of a new epoch nothing may have been said yet.
  const which = to < from ? "the topic began anew" : from === to ? `offset ${from}` : `offsets ${from} to ${to}`;
  const many = lost === null ? "Some messages may be" : lost === 1 ? "1 message is" : `${count(lost)} messages are`;
  return make("li", { class: "gap" }, `${many} missing here: ${which}, ${words(reason)}${recoverable ? "; the history has them" : ""}`);
}

function messageLine({ offset, time, event, key, data }) {
  const text = JSON.stringify(data) ?? "";
  const head = [make("time", { datetime: new Date(time).toISOString() }, clock(time, true)), make("span", { class: "offset" }, `#${offset}`)];
  if (event) head.push(make("span", { class: "event" }, event));
  if (key) head.push(make("span", { class: "event" }, `key ${key}`));
  const parts = head.flatMap((part) => [part, " "]);
  if (text.length <= ONE_LINE) return make("li", {}, ...parts, make("code", {}, text));
  const whole = make("details", {}, make("summary", {}, make("code", {}, shorten(text, ONE_LINE)), ` ${bytes(text.length)}`));
  whole.addEventListener("toggle", () => {
    if (whole.open && whole.childElementCount === 1) whole.append(make("pre", { tabindex: 0 }, JSON.stringify(data, null, 2)));
  });
  return make("li", {}, ...parts, whole);
}
