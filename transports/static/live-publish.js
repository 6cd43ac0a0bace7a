// The box to publish from: by the page's own client, as any other peer would.
import { find, say } from "./live-dom.js";
import { count, shorten } from "./live-format.js";

/** Milliseconds without a key before a reader is told: half a word is never JSON. */
const PAUSE = 400;
const TOKEN = /"(?:[^"\\]+|\\.)*"|-?\d[\d.eE+-]*/g;

/** The first number in a JSON text that JavaScript would make another one of. */
const inexact = (text) =>
  text.match(TOKEN)?.find((token) => {
    if (token.startsWith('"')) return false;
    return /[.eE]/.test(token) ? !Number.isFinite(Number(token)) : !Number.isSafeInteger(Number(token));
  });

export class Publish {
  #link;
  #telling;
  /** The topic that it took from the tail: it goes along until somebody writes another. */
  #along = "";

  constructor(link) {
    this.#link = link;
    const form = find("publish");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#publish();
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      const sends = event.ctrlKey || event.metaKey;
      // Held down it is one message all the same.
      if (event.repeat && (sends || event.target.tagName === "INPUT")) event.preventDefault();
      else if (sends) form.requestSubmit();
    });
    find("publish-data").addEventListener("input", () => {
      const why = this.#check();
      clearTimeout(this.#telling);
      this.#telling = setTimeout(() => this.#tell(why, true), PAUSE);
    });
  }

  follow(topic) {
    const input = find("publish-topic");
    if (input.value === this.#along) input.value = topic;
    this.#along = topic;
  }

  /** Why what stands there is not JSON, or not what would go out; nothing if it is. */
  #check() {
    const input = find("publish-data");
    let why = "";
    try {
      JSON.parse(input.value);
      const number = inexact(input.value);
      if (number) why = `${shorten(number, 40)} would be rounded: it is too large for a number of JavaScript. Put it in quotes.`;
    } catch (error) {
      why = input.value.trim() ? `Not JSON (text stands in double quotes): ${error.message}` : "Some JSON is needed.";
    }
    input.setCustomValidity(why);
    return why;
  }

  async #publish() {
    if (find("publish-go").disabled || this.#check()) return;
    clearTimeout(this.#telling);
    const data = JSON.parse(find("publish-data").value);
    const topic = find("publish-topic").value.trim();
    const event = find("publish-event").value.trim() || undefined;
    const key = find("publish-key").value.trim() || undefined;
    find("publish-go").disabled = true;
    this.#tell("…");
    try {
      const { offset, duplicate } = await this.#link.publish(topic, data, { event, key });
      this.#tell(`Published at offset ${count(offset)}${duplicate ? ", where it was already" : ""}.`);
    } catch (error) {
      this.#tell(error.code ? `${error.code}: ${error.message}` : error.message, true);
    } finally {
      find("publish-go").disabled = false;
    }
  }

  #tell(text, bad = false) {
    const said = find("publish-check");
    say(said, text);
    said.toggleAttribute("data-bad", bad);
  }
}
