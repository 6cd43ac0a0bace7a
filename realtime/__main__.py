"""``python -m realtime``: the same as the command ``realtime``."""

from realtime.cli import main

main(prog_name="realtime")
