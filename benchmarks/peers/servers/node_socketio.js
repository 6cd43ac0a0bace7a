// Node socket.io with rooms; GET /sse is what plain Node does for Server-Sent Events.
"use strict";
const http = require("http");
const { Server } = require("socket.io");

const streams = new Map();

const server = http.createServer((request, response) => {
  const topic = new URL(request.url, "http://localhost").searchParams.get("topic");
  if (!topic) return response.writeHead(404).end();
  if (!streams.has(topic)) streams.set(topic, new Set());
  const room = streams.get(topic);
  room.add(response);
  request.on("close", () => room.delete(response));
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
  response.write("event: welcome\ndata: {}\n\n");
});

const io = new Server(server, { transports: ["websocket"], perMessageDeflate: false });

io.on("connection", (socket) => {
  socket.on("subscribe", (topic, reply) => {
    socket.join(topic);
    reply("subscribed");
  });
  socket.on("publish", (topic, data) => {
    io.to(topic).emit("message", data);
    const room = streams.get(topic);
    if (!room) return;
    const event = `event: message\ndata: ${JSON.stringify(data)}\n\n`;
    for (const response of room) response.write(event);
  });
  socket.on("ping", (number, reply) => reply(number));
  socket.on("work", ({ n }, reply) => setTimeout(() => reply({ n, double: 2 * n }), 10));
});

server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
process.on("SIGTERM", () => process.exit(0));
