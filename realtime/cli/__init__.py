"""The command ``realtime``.

Each module has a group of commands; `realtime.cli.ending` says how they end, `realtime.cli.output` how they print,
`realtime.cli.given` what they take, and `realtime.cli.remote` where the server is that they talk to.
"""

from __future__ import annotations

from typing import Any

import click

from realtime import __version__
from realtime.cli.bench import bench
from realtime.cli.completion import completion
from realtime.cli.ending import Exit, Failure, silence_stdout
from realtime.cli.keys import check_access, check_config, create_key, create_token
from realtime.cli.peers import members, publish, request, tail
from realtime.cli.serving import demo, serve
from realtime.cli.watching import stats, top
from realtime.errors import ConfigurationError

__all__ = ["main"]


class _Commands(click.Group):
    """Commands in the order in which one meets them; and the ends that all of them share."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(Exit.INTERRUPTED)
        except BrokenPipeError:
            # Whoever read us, as in `| head`, has had enough. That is no fault of anybody's.
            silence_stdout()
            ctx.exit(Exit.DONE)
        except ConfigurationError as error:
            raise Failure(str(error)) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="realtime")
def main() -> None:
    """A realtime server on Trio: WebSocket and Server-Sent Events on one port.

    \b
    Try it in two terminals:
      realtime serve --dev
      realtime tail room:lobby
    and from a third:
      realtime publish room:lobby '{"text": "hello"}'

    Commands that talk to a server find it by --url or REALTIME_URL, and log in with REALTIME_TOKEN or REALTIME_KEY.
    They exit with 0 when done, 1 when something is refused or wrong, 2 for a wrong command line, 3 when there is no
    connection to the server, 130 after Ctrl-C.
    """


for _command in (
    serve,
    demo,
    tail,
    publish,
    request,
    members,
    stats,
    top,
    create_token,
    create_key,
    check_config,
    check_access,
    bench,
    completion,
):
    main.add_command(_command)
