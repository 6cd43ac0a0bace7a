/** What React, or anything else, can read of one topic: subscribed while somebody listens. */
export function topicStore(client, topic, { keep = 50, ...options } = {}) {
  const nothing = { messages: [], gap: null, error: null };
  let snapshot = nothing;
  let sub;
  const listeners = new Set();

  function set(changes) {
    snapshot = { ...snapshot, ...changes }; // a new object: that is how React sees that something has changed
    for (const listener of listeners) listener();
  }

  return {
    getSnapshot: () => snapshot,
    subscribe(listener) {
      listeners.add(listener);
      if (!sub) {
        snapshot = nothing;
        sub = client.subscribe(topic, { recover: { last: keep }, ...options });
        sub.on("message", (message) => set({ messages: [...snapshot.messages, message].slice(-keep) }));
        sub.on("gap", (gap) => set({ gap }));
        sub.on("ended", (error) => error && set({ error }));
      }
      return () => {
        listeners.delete(listener);
        if (listeners.size) return;
        sub.unsubscribe();
        sub = undefined;
      };
    },
  };
}
