// The HTTP API, with the key of whoever looks. The key is in the tab's session and in a header, and nowhere else.
import { forThisTab, recall, remember } from "./live-memory.js";

const DEADLINE = 5000;

/** The server has answered, and it was a no. */
export class Refusal extends Error {
  constructor(status, { code = `HTTP ${status}`, message = "the server refused this", retry_after } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter: retry_after });
  }

  /** Asking again would be refused again. */
  get final() {
    return this.status === 401 || this.status === 403;
  }
}

export class Api {
  #key = recall("key", "", forThisTab);

  get key() {
    return this.#key;
  }

  set key(key) {
    this.#key = key;
    remember("key", key || null, forThisTab);
  }

  get(path) {
    return this.#call("GET", path);
  }

  post(path) {
    return this.#call("POST", path);
  }

  async #call(method, path) {
    const headers = this.#key ? { "X-API-Key": this.#key } : {};
    const signal = AbortSignal.timeout(DEADLINE);
    const response = await fetch(`/api/v1/${path}`, { method, headers, signal, cache: "no-store", credentials: "omit" });
    const answer = response.status === 204 ? null : await response.json().catch(() => ({}));
    if (!response.ok) throw new Refusal(response.status, answer);
    return answer;
  }
}
