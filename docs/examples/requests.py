"""Requests with a typed payload, and a circuit breaker around what they depend on."""

from typing import Annotated

import msgspec
import trio

from realtime import Actions, Caller, CircuitBreaker, CommandError, ErrorCode, open_engine
from realtime.testing import connect

actions = Actions()
source = CircuitBreaker("fund-flow-api", failures=2, retry_seconds=30.0)


class FlowQuery(msgspec.Struct):
    symbol: Annotated[str, msgspec.Meta(pattern="^[0-9]{6}$")]
    days: Annotated[int, msgspec.Meta(ge=1, le=250)] = 5


@actions.handler("get_fund_flow", timeout_seconds=3.0, concurrency=8, breaker=source)
async def get_fund_flow(query: FlowQuery, caller: Caller) -> dict[str, float]:
    """Net inflow of a symbol."""
    if query.symbol == "999999":  # a real one asks a service, which may be down
        raise CommandError(ErrorCode.UNAVAILABLE, "the source does not answer")
    return {"net": 0.25 * query.days}


async def ask(peer, **members):
    reply = await peer.command("request", **members)
    if reply["type"] == "response":
        print(reply["data"], reply["trace_id"])
    else:
        later = f" (again in {reply['retry_after']:.0f} s)" if "retry_after" in reply else ""
        print(f"{reply['code']}: {reply['message']}{later}")


async def main():
    async with open_engine(actions=actions) as engine, connect(engine) as peer:
        await ask(peer, action="get_fund_flow", payload={"symbol": "600519"}, trace_id="9f31")
        await ask(peer, action="get_fund_flow", payload={"symbol": "600519", "days": 0})
        await ask(peer, action="get_weather")
        for symbol in ("999999", "999999", "600519"):
            await ask(peer, action="get_fund_flow", payload={"symbol": symbol})
        print(source.statistics().state)


if __name__ == "__main__":
    trio.run(main)
