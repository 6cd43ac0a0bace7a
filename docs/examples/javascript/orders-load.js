// What the ways of asking for the orders have in common. The comments "// [" mark what the page shows.
import { show } from "./orders-page.js";

// [load
async function get(path) {
  for (;;) {
    try {
      const response = await fetch(path);
      if (response.ok) return await response.json();
    } catch {} // no answer, or half of one
    await new Promise((resolve) => setTimeout(resolve, 1000 + Math.random() * 4000)); // no two pages at once
  }
}

const poll = (query) => get(`/poll?${new URLSearchParams({ topic: "room:bakery", ...query })}`);
const isLost = ({ recovered }) => recovered === "none";

async function load() {
  const { cursor } = await poll({ timeout: 0 });
  show(await get("/orders/bakery"));
  return cursor;
}
// ]

// [refresh
let latest = 0;

function hear(orders) {
  latest++;
  show(orders);
}

async function refresh() {
  const mine = ++latest;
  const orders = await get("/orders/bakery");
  if (mine === latest) show(orders); // else there is something newer
}
// ]

export { hear, isLost, load, poll, refresh };
