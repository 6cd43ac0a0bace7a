"""A network cable that can be pulled: port 9000 leads to port 8000 until Ctrl-C."""

from contextlib import suppress
from functools import partial

import trio


async def carry(source, sink, connection):
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
    connection.cancel()


async def plug_in(browser):
    with suppress(OSError):  # nobody at the other end
        async with await trio.open_tcp_stream("127.0.0.1", 8000) as server, trio.open_nursery() as nursery:
            nursery.start_soon(carry, browser, server, nursery.cancel_scope)
            nursery.start_soon(carry, server, browser, nursery.cancel_scope)


serve = partial(trio.serve_tcp, plug_in, 9000, host="127.0.0.1")
try:
    trio.run(serve, restrict_keyboard_interrupt_to_checkpoints=True)  # Ctrl-C does not come between two lines
except* KeyboardInterrupt:
    pass
