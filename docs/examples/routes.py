"""Paths that a front end knows already, in words that it understands."""

import msgspec
import trio
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from realtime import Route, closing
from realtime.server import open_server


def as_row(event, data, time_ms, topic):
    """A message, in the words of the page. ``data`` is JSON text."""
    return b'{"row":%b,"board":%b}' % (data, msgspec.json.encode(topic.removeprefix("room:")))


class Board:
    """How the page and the server talk."""

    envelope = staticmethod(as_row)

    def push(self, kind, push, topic, now_ms):  # noqa: ARG002 - of these this page needs two
        """What the server says besides messages; None is not sent."""
        return b'{"fault":%b}' % msgspec.json.encode(push["message"]) if kind == "error" else None

    def hear(self, text):
        """The answer to what the page says."""
        return b"pong" if bytes(text) == b"ping" else None


# One dialect for all connections, so that they share what is encoded.
ROUTES = [Route(path="/boards/{board}/live", topic="room:{board}", transport="websocket", dialect=Board())]


def page(url):
    """What the page does."""
    with connect(url) as socket:
        try:
            for text in socket:
                print(text)
        except ConnectionClosed:
            pass  # with any other code than 1000
        print("closed with", socket.close_code)


async def main():
    async with open_server(dev=True, port=0, routes=ROUTES) as server:

        @server.feed(topics="room:*")
        async def one_order(server, topic):
            await server.publish(topic, {"table": 4, "dish": "soup"})
            await server.end(topic, closing.NORMAL)

        for board in ("kitchen", "not%20a%20board"):
            await trio.to_thread.run_sync(page, f"{server.url.replace('http', 'ws')}/boards/{board}/live")


if __name__ == "__main__":
    trio.run(main)
