// The live page: who asks, who is told, and what is said about the server and the page's own connection.
import { Activity, Details } from "./live-activity.js";
import { Api } from "./live-api.js";
import { Board } from "./live-board.js";
import { find, make, say } from "./live-dom.js";
import { clock } from "./live-format.js";
import { Link } from "./live-link.js";
import { recall, remember } from "./live-memory.js";
import { Overview } from "./live-overview.js";
import { Publish } from "./live-publish.js";
import { Tail } from "./live-tail.js";
import { Watch } from "./live-watch.js";

const SUGGESTED = 8;
// A server that has just started knows few topics yet.
const SUGGEST_AFTER = [0, 2000, 4000];
const THEMES = ["system", "light", "dark"];
const WRONG_KEY = ["AUTH_FAILED", "AUTH_REQUIRED"];

const api = new Api();
const watch = new Watch(api, showServer);
const link = new Link(showLink);
const overview = new Overview();
const details = new Details(api);
const publish = new Publish(link);
const tail = new Tail(link, (topic) => publish.follow(topic));
const openTail = (topic) => tail.open(topic);
const board = new Board(link, { tail: openTail });
const activity = new Activity({
  tail: openTail,
  open: (id) => {
    details.open(id);
    watch.now();
  },
  ours: () => link.connections,
});

let started = false;
let refusal = null;
/** The key was good once: before the page was loaded anew, or since. */
let proven = Boolean(api.key);
let retryAt = 0;
let ticking;

// -- what is asked -----------------------------------------------------------------------------------------------

watch.add(
  () => "stats",
  (stats, error) => {
    refusal = error?.final ? error : null;
    if (refusal?.status === 401 && proven) outliveKey();
    if (!stats) return;
    proven = Boolean(api.key);
    overview.show(stats);
    start();
  },
);
watch.add(
  () => activity.path,
  (found) => found && activity.show(found),
);
watch.add(
  () => details.path,
  (found, error, path) => (found ? details.show(found) : details.fail(error, path)),
);
watch.add(
  () => tail.path,
  (found) => tail.showTopic(found),
);

/** The parts that are peers begin once it is known that somebody is let in: a stranger's connection would be refused. */
async function start() {
  if (started) return;
  started = true;
  link.start(api.key, find("transport").value);
  tail.start();
  for (const wait of SUGGEST_AFTER) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    const names = await readNames();
    board.start(names.filter((name) => name.startsWith("symbol:")).slice(0, SUGGESTED));
  }
}

async function readNames() {
  try {
    const names = (await api.get("topics?limit=100")).topics.map(({ topic }) => topic);
    find("names").replaceChildren(...names.map((value) => make("option", { value })));
    return names;
  } catch {
    return []; // without suggestions, then
  }
}

for (const input of document.querySelectorAll("input[list=names]")) input.addEventListener("focus", readNames);
for (const name of ["topics-most", "connections-most"]) find(name).addEventListener("change", () => watch.now());
find("members").addEventListener("toggle", () => watch.now());

// -- the server ----------------------------------------------------------------------------------------------------

function showServer({ state, heard }) {
  document.body.toggleAttribute("data-stale", state === "gone" || refusal !== null);
  if (state === "gone") notice(heard ? `The server does not answer. What stands here is of ${clock(heard)}.` : "The server does not answer.");
  else if (!refusal) notice("");
  else if (refusal.status === 403) notice("This key has not the right read: the overview and the lists stay empty.");
  else if (api.key) notice("The server does not know this key.");
  else notice("To look at this server you need an API key.");
  if (refusal && state === "fine") {
    showKeyPanel(true);
    // It may publish, or hear some topics, all the same.
    if (refusal.status === 403) start();
  }
}

function notice(text) {
  find("notice").hidden = !text;
  find("notice").toggleAttribute("data-asks", refusal !== null && !api.key);
  say(find("notice"), text);
}

// -- the page's own connection -------------------------------------------------------------------------------------

function showLink({ state, transport, retryIn, error }) {
  const wrongKey = state === "failed" && WRONG_KEY.includes(error?.code);
  const by = transport ? ` by ${transport}` : "";
  const texts = {
    connecting: "connecting",
    connected: `connected${by}`,
    reconnecting: "connection lost",
    failed: wrongKey && api.key ? "refused: unknown key" : `refused: ${error?.message ?? "for good"}`,
    closed: "closed",
  };
  find("link").dataset.state = state;
  say(find("link-state"), texts[state]);
  find("link-state").title = link.connection ?? "";
  find("link-again").hidden = state === "connected" || (state === "connecting" && retryIn === undefined);
  retryAt = Number.isFinite(retryIn) ? Date.now() + retryIn : 0;
  clearInterval(ticking);
  ticking = retryAt && state !== "connected" ? setInterval(countDown, 1000) : undefined;
  countDown();
  document.body.toggleAttribute("data-offline", state !== "connected");
  if (state !== "connected") tail.lost();
  if (wrongKey) {
    showKeyPanel(true);
    say(find("key-said"), api.key ? "The server does not know this key." : "Peers must log in here.");
  }
}

function countDown() {
  const left = Math.ceil((retryAt - Date.now()) / 1000);
  say(find("link-wait"), left > 0 ? `back in ${left} s` : "");
}

find("link-again").addEventListener("click", () => link.again());
find("transport").value = recall("transport", "");
find("transport").addEventListener("change", ({ target }) => {
  remember("transport", target.value);
  if (started) link.start(api.key, target.value);
});

// -- the key -------------------------------------------------------------------------------------------------------

function showKeyPanel(shown) {
  find("key-panel").hidden = !shown;
  find("key-toggle").setAttribute("aria-expanded", shown);
}

function useKey(key) {
  api.key = key;
  proven = false;
  refusal = null;
  find("key-form").reset();
  find("key-forget").disabled = !key;
  say(find("key-toggle"), key ? "API key: set" : "API key");
  details.renew();
  if (started) link.start(key, find("transport").value);
  watch.renew();
}

/** The server has another set of keys than before. It may show itself without one, as in development. */
function outliveKey() {
  useKey("");
  showKeyPanel(true);
  say(find("key-said"), "The server does not know your key any more. It is forgotten.");
}

find("key-toggle").addEventListener("click", () => {
  const shown = find("key-panel").hidden;
  showKeyPanel(shown);
  if (shown) find("key").focus();
});
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = find("key").value.trim();
  // Anything else cannot stand in a header.
  if (!/^[!-~]+$/.test(key)) {
    say(find("key-said"), "A key has only visible ASCII characters.");
    return;
  }
  say(find("key-said"), "");
  showKeyPanel(false);
  find("key-toggle").focus();
  useKey(key);
});
find("key-forget").addEventListener("click", () => {
  say(find("key-said"), "Forgotten.");
  find("key").focus();
  useKey("");
});

// -- the rest ------------------------------------------------------------------------------------------------------

function showTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say(find("theme"), `Theme: ${theme}`);
}

let theme = THEMES.includes(recall("theme", "")) ? recall("theme", "") : "system";
find("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  remember("theme", theme);
  showTheme(theme);
});

showTheme(theme);
say(find("host"), location.host);
document.title = `${location.host} · Realtime`;
say(find("key-toggle"), api.key ? "API key: set" : "API key");
find("key-forget").disabled = !api.key;
watch.now();
