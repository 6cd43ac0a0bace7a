// Asks the API once a second: while somebody looks, one round at a time, each question with a deadline.
import { Refusal } from "./live-api.js";

const PERIOD = 1000;
const WHILE_GONE = 2000;

export class Watch {
  #api;
  #questions = [];
  #onChange;
  #timer;
  #asking = false;
  #again = false;
  /** Counts the keys. */
  #key = 0;
  /** "asking" until the first answer, then "fine" or "gone". */
  state = "asking";
  /** When the last answer came. */
  heard = null;

  constructor(api, onChange) {
    this.#api = api;
    this.#onChange = onChange;
    document.addEventListener("visibilitychange", () => this.now());
  }

  /** `path` gives what to ask for now, or nothing; `hear` is given the answer; or null, the refusal, and what of. */
  add(path, hear) {
    this.#questions.push({ path, hear, refused: false });
  }

  /** With another key, what was refused is asked again. */
  renew() {
    for (const question of this.#questions) question.refused = false;
    this.#key++;
    this.now();
  }

  /** A round at once; after the one that is under way. */
  now() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    if (this.#asking) this.#again = true;
    else this.#round();
  }

  async #round() {
    this.#asking = true;
    const begun = performance.now();
    const key = this.#key;
    // Until the server is known to answer, the first question is enough.
    const known = this.state === "fine";
    const asked = this.#questions.slice(0, known ? undefined : 1).filter(({ refused }) => !refused);
    let wait = 0;
    const answers = await Promise.all(
      asked.map(async (question) => {
        const path = question.path();
        if (!path) return null;
        try {
          const answer = await this.#api.get(path);
          // What the key before was told says nothing about this one.
          if (key === this.#key) question.hear(answer);
          return true;
        } catch (error) {
          if (!(error instanceof Refusal)) return false;
          if (key !== this.#key) return true; // of the key before
          question.refused = error.final;
          if (error.status === 401) for (const each of this.#questions) each.refused = true; // whatever it is about
          wait = Math.max(wait, (error.retryAfter ?? 0) * 1000);
          question.hear(null, error, path);
          return true;
        }
      }),
    );
    this.#asking = false;
    const gone = answers.includes(false);
    if (gone || answers.includes(true)) this.#become(gone ? "gone" : "fine");
    if (document.hidden) return;
    const rest = (gone ? WHILE_GONE : PERIOD) - (performance.now() - begun);
    const soon = this.#again || (!known && this.state === "fine");
    this.#timer = setTimeout(() => this.#round(), Math.max(soon ? 0 : rest, wait, 0));
    this.#again = false;
  }

  #become(state) {
    if (state === "fine") this.heard = Date.now();
    this.state = state;
    this.#onChange(this);
  }
}
