import { show } from "./orders-page.js";
import { isLost, load, poll } from "./orders-load.js";

// [poll
let cursor = await load();
for (;;) {
  const answer = await poll({ cursor });
  for (const { data } of answer.messages) show(data);
  cursor = answer.gaps.length || answer.topics.some(isLost) ? await load() : answer.cursor;
}
// ]
