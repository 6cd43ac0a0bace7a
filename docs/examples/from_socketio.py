"""What a chat server of python-socketio does, here: a login, a room, an answer, a task, and a worker elsewhere."""

from typing import Any

import trio

from realtime import Caller, CommandError, ErrorCode, Feeds, Identity
from realtime.client import Last, connect
from realtime.server import open_server
from transports.publishers import AsyncHttpPublisher

feeds = Feeds()


async def authenticate(token):  # was: the connect handler
    if token != "a-token":
        raise CommandError(ErrorCode.AUTH_FAILED, "this token is no good")
    return Identity("7", info={"name": "Ada"})  # was: save_session


@feeds.feed()
async def tell_time(server):  # was: start_background_task
    while True:
        await server.publish("global", {"time": "noon"}, event="time")
        await trio.sleep(60)


async def greet(names: dict[str, Any], caller: Caller) -> str:  # was: a handler whose return value is the ack
    return f"hello {names['name']}, user {caller.user}"


async def main():
    async with open_server(port=0, authenticate=authenticate, feeds=feeds, api_keys=["a-key"]) as server:
        server.handler("greet")(greet)
        async with (
            connect(server.url, token="a-token") as ada,
            ada.subscribe("room:lobby", recover=Last(10)) as lobby,  # was: enter_room
            AsyncHttpPublisher(server.url, "a-key") as worker,  # was: RedisManager(write_only=True)
        ):
            print(await ada.request("greet", {"name": "Ada"}))  # was: call, or emit with a callback
            await ada.publish("room:lobby", {"text": "not for me"}, event="chat", echo=False)  # was: skip_sid
            await worker.publish("room:lobby", {"text": "from a worker"}, event="chat")
            await worker.send_to_user("7", {"text": "for you alone"})  # was: emit to the sid of a user
            message = await anext(lobby)
            print(message.event, message.data)


if __name__ == "__main__":
    trio.run(main)
