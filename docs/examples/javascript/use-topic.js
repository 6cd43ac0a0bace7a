import { useMemo, useSyncExternalStore } from "react";
import { topicStore } from "./topic-store.js";

/** The newest messages of a topic. Give it an object of options that stays the same, or options of plain JSON. */
export function useTopic(client, topic, options) {
  const view = JSON.stringify(options ?? {});
  const store = useMemo(() => topicStore(client, topic, JSON.parse(view)), [client, topic, view]);
  return useSyncExternalStore(store.subscribe, store.getSnapshot, store.getSnapshot);
}
