const nothing = { messages: [], gap: null, error: null };

/** What React, or anything else, can read of one topic: subscribed while somebody listens. */
export function topicStore(client, topic, { keep = 50, ...options } = {}) {
  let snapshot = nothing;
  let sub;
  let last = 0;
  const listeners = new Set();

  function set(changes) {
    snapshot = { ...snapshot, ...changes }; // a new object: that is how React sees that something has changed
    for (const listener of listeners) listener();
  }

  function add(message) {
    // Offsets begin anew with a topic's history, so they are no keys for a list.
    set({ messages: [...snapshot.messages, { ...message, id: ++last }].slice(-keep) });
  }

  const fail = (error) => error && set({ error });

  function begin() {
    if (!client) return;
    try {
      sub = client.subscribe(topic, { recover: { last: keep }, ...options });
    } catch (error) {
      return fail(error); // the client is closed, or has this topic with other options
    }
    sub.on("subscribed", () => snapshot.error && set({ error: null }));
    sub.on("message", add);
    sub.on("gap", (gap) => set({ gap }));
    sub.on("ended", fail);
    sub.ready.catch(fail); // also where nobody can log in
  }

  return {
    getSnapshot: () => snapshot,
    getServerSnapshot: () => nothing,
    subscribe(listener) {
      listeners.add(listener);
      if (!sub) begin();
      return () => {
        listeners.delete(listener);
        if (listeners.size) return;
        sub?.unsubscribe();
        sub = undefined;
        snapshot = nothing;
      };
    },
  };
}
