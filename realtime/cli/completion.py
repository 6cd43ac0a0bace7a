"""``completion``: what a shell has to read to complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from realtime.cli.printing import say

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands in a shell.

    \b
    Example, for a line in ~/.bashrc:
      source <(realtime completion bash)
    For fish:
      realtime completion fish > ~/.config/fish/completions/realtime.fish
    """
    found = get_completion_class(shell)
    assert found is not None, "click has all of them"
    say(found(ctx.find_root().command, {}, "realtime", "_REALTIME_COMPLETE").source())
