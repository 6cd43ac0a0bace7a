// The page of `realtime demo`: ticks and a chat room over one WebSocket, resumed after a reconnect.

const status = document.querySelector("#status");
const ticks = document.querySelector("#ticks");
const chat = document.querySelector("#chat");
const positions = new Map(["symbol:600519", "symbol:000001", "symbol:300750", "room:lobby"].map((topic) => [topic, null]));
const MAX_LINES = 200;
let socket = null;
let nextId = 1;
let tries = 0;

function say(state, text) {
  status.dataset.state = state;
  status.textContent = text;
}

function send(command) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ id: nextId++, ...command }));
}

function subscribeCommand(topic) {
  const recover = positions.get(topic);
  return { type: "subscribe", id: nextId++, topic, recover: recover ?? { last: topic.startsWith("room:") ? 20 : 1 } };
}

function row(symbol) {
  const id = `tick-${symbol}`;
  let found = document.getElementById(id);
  if (!found) {
    found = document.createElement("tr");
    found.id = id;
    found.append(...Array.from({ length: 4 }, () => document.createElement("td")));
    found.cells[0].textContent = symbol;
    ticks.append(found);
  }
  return found;
}

function showTick(symbol, message) {
  const { cells } = row(symbol);
  const before = Number(cells[1].textContent);
  const price = Number(message.data.price);
  cells[1].textContent = Number.isFinite(price) ? price.toFixed(2) : "";
  if (before && price !== before) cells[1].dataset.move = price > before ? "up" : "down";
  cells[2].textContent = message.data.volume ?? "";
  cells[3].textContent = message.offset;
}

function showLine(text, kind = "line") {
  const line = document.createElement("li");
  line.dataset.kind = kind;
  line.textContent = text;
  chat.append(line);
  while (chat.children.length > MAX_LINES) chat.firstChild.remove();
  chat.scrollTop = chat.scrollHeight;
}

function receive(push) {
  switch (push.type) {
    case "subscribed":
      if (!push.recovered || push.recovered === "none" || !push.replayed) {
        positions.set(push.topic, { epoch: push.epoch, offset: push.offset });
      } else {
        positions.set(push.topic, { epoch: push.epoch, offset: push.offset - push.replayed });
      }
      break;
    case "batch":
      push.replies.forEach(receive);
      break;
    case "message": {
      const [kind, name] = push.topic.split(":");
      positions.get(push.topic).offset = push.offset;
      if (kind === "symbol") showTick(name, push);
      else showLine(String(push.data?.text ?? JSON.stringify(push.data)));
      break;
    }
    case "gap":
      showLine(`${push.count} messages of ${push.topic} were lost (${push.reason})`, "gap");
      break;
    case "error":
      showLine(`${push.code}: ${push.message}`, "gap");
      break;
  }
}

function connect() {
  say("connecting", tries ? "reconnecting" : "connecting");
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
  let retryAfter = null;
  socket.onopen = () => {
    tries = 0;
    say("connected", "connected");
    send({ type: "batch", commands: [...positions.keys()].map(subscribeCommand) });
  };
  socket.onmessage = ({ data }) => {
    const push = JSON.parse(data);
    if (push.type === "disconnect") retryAfter = push.retry_after;
    else receive(push);
  };
  socket.onclose = ({ code }) => {
    if (code >= 4000 && code < 4100 && code !== 4029) {
      say("failed", `refused (${code})`);
      return;
    }
    const wait = retryAfter ?? Math.min(30, 3 * 2 ** tries) * (0.5 + Math.random() / 2);
    tries += 1;
    say("waiting", `connection lost, back in ${Math.round(wait)} s`);
    setTimeout(connect, wait * 1000);
  };
}

document.querySelector("#follow").addEventListener("submit", (event) => {
  event.preventDefault();
  const topic = `symbol:${event.target.symbol.value}`;
  if (!positions.has(topic)) {
    positions.set(topic, null);
    send(subscribeCommand(topic));
  }
  event.target.reset();
});

document.querySelector("#say").addEventListener("submit", (event) => {
  event.preventDefault();
  send({ type: "publish", topic: "room:lobby", event: "chat", data: { text: event.target.text.value } });
  event.target.reset();
});

connect();
