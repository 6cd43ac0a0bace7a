import { useSyncExternalStore } from "react";
import { topicStore } from "./topic-store.js";

const stores = new WeakMap();
const none = topicStore();

/** One store for all components that show the same: who comes later sees what the others have. */
function storeOf(client, topic, view) {
  if (!client) return none;
  if (!stores.has(client)) stores.set(client, new Map());
  const own = stores.get(client);
  const key = JSON.stringify([topic, view]);
  if (!own.has(key)) own.set(key, topicStore(client, topic, JSON.parse(view)));
  return own.get(key);
}

/** The newest messages of a topic, or none while there is no client. Options are plain JSON. */
export function useTopic(client, topic, options = {}) {
  const store = storeOf(client, topic, JSON.stringify(options));
  return useSyncExternalStore(store.subscribe, store.getSnapshot, store.getServerSnapshot);
}
