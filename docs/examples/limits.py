"""What becomes of a peer that talks too fast, and of one that listens when it is told so."""

import trio
import trio.testing

from realtime import Identity, Settings, open_engine
from realtime.testing import connect

SETTINGS = Settings(command_rate=10.0, command_burst=3.0)  # the defaults are 100 and 500


async def main():
    async with open_engine(SETTINGS) as engine:
        async with connect(engine, identity=Identity("7")) as peer:
            for number in range(1, 5):
                reply = await peer.command("ping")
                print(number, reply.get("code") or reply["type"])
            await trio.sleep(reply["retry_after"])
            print("after", reply["retry_after"], "s:", (await peer.command("ping"))["type"])

        async with connect(engine, identity=Identity("8")) as hasty:
            for _ in range(200):
                hasty.send("ping")
            reason = await hasty.wait_closed()
            told = await hasty.receive_type("disconnect")
            print("one that goes on:", reason.code, reason.text, "| to come back later:", told["retry_after"] > 0)
        print("counted:", engine.statistics().refused["command_rate"] > 100)


if __name__ == "__main__":
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))  # nobody has to wait
