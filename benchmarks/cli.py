"""The command line: which works, which peers, how many rounds; runs them and prints the tables."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from benchmarks import peers, works
from benchmarks.bench import SMOKE, Bench, Sizes, Work
from benchmarks.compiling import compile_c
from benchmarks.load import SOURCE, LoadError
from benchmarks.machine import describe
from benchmarks.peers import Peer
from benchmarks.peers.node_socketio import NodeSocketIO
from benchmarks.processes import Cores, ServerError
from benchmarks.tables import Row, Table

SMOKE_BUDGET_SECONDS = 15
"""After this, a smoke run measures no further peer; it says which ones it left out."""
FAILURES = (ServerError, LoadError, subprocess.SubprocessError, OSError)
"""What a measurement may fail with; the run then goes on with the next one."""


Named = TypeVar("Named", Peer, Work)


def pick(known: Sequence[Named], names: str | None) -> list[Named]:
    """The named ones in their own order; all if no names are given."""
    wanted = names.split(",") if names else [one.name for one in known]
    unknown = set(wanted) - {one.name for one in known}
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(one.name for one in known)}")
    return [one for one in known if one.name in wanted]


def progress(text: str) -> None:
    """Tell the one who waits; the tables go to standard output."""
    print(text, file=sys.stderr, flush=True)


def measure(bench: Bench, work: Work, row: Row) -> None:
    """One measurement into its row."""
    try:
        sample = work.measure(bench, row.case)
    except FAILURES as error:
        row.failures.append(f"failed: {error}")
        progress(f"{work.name}: {row.case.label}: failed: {error}")
        return
    row.samples.append(sample)
    shown = ", ".join(f"{key} {value:,.2f}" for key, value in sample.values.items())
    progress(f"{work.name}: {row.case.label}: {shown} {'; '.join(sample.faults + sample.notes)}".rstrip())


def run_full(bench: Bench, table: Table, rounds: int) -> None:
    """Rounds, interleaved between the rows."""
    for _ in range(rounds if table.work.repeats else 1):
        for row in table.rows:
            measure(bench, table.work, row)


def smoke_rows(table: Table, seen: set[str]) -> list[Row]:
    """Ours does every work; a peer does the first one it offers, which shows that its adapter still fits."""
    rows = [row for row in table.rows if row.case.peer.name not in seen]
    seen |= {row.case.peer.name for row in rows} - {"ours"}
    return rows


def run_smoke(bench: Bench, tables: Sequence[Table]) -> None:
    """One short measurement of each row; ours first, the peers while there is time."""
    deadline = time.monotonic() + SMOKE_BUDGET_SECONDS
    seen: set[str] = set()
    for table in tables:
        table.rows = smoke_rows(table, seen)
    every = [(table, row) for table in tables for row in table.rows]
    for table, row in sorted(every, key=lambda pair: pair[1].case.peer.name != "ours"):
        if row.case.peer.name == "ours" or time.monotonic() < deadline:
            measure(bench, table.work, row)
        else:
            table.rows.remove(row)
            table.absent[row.case.label] = "the smoke run's time was used up"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="WORKS", help=", ".join(work.name for work in works.ALL))
    parser.add_argument("--peers", metavar="PEERS", help=", ".join(peer.name for peer in peers.ALL))
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each figure (3)")
    parser.add_argument("--publishers", type=int, default=1, help="connections that share the publishes in flight (1)")
    parser.add_argument("--window", type=float, help="seconds a measurement lasts, after its warm-up")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, under 20 s: does it run, is nothing lost?")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 1 if this project's server failed or lost something (in a smoke run: if any server did)."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that every `finally` runs
    chosen_works, chosen_peers = pick(works.ALL, options.only), pick(peers.ALL, options.peers)
    if options.smoke:
        for work in chosen_works:
            if not work.in_smoke:
                progress(f"{work.name}: not in a smoke run")
        chosen_works = [work for work in chosen_works if work.in_smoke]
    if not options.smoke:
        for peer in chosen_peers:
            if isinstance(peer, NodeSocketIO):
                peer.install()
    absent = {peer: why for peer in chosen_peers if (why := peer.absent())}
    present = [peer for peer in chosen_peers if peer not in absent]
    cores = Cores.pick()
    os.sched_setaffinity(0, {cores.load})
    sizes = replace(SMOKE if options.smoke else Sizes(), publishers=options.publishers)
    if options.window:
        sizes = replace(sizes, window_seconds=options.window)

    tables = []
    for work in chosen_works:
        missing = {peer.title: why for peer, why in absent.items() if work.wants(peer)}
        tables.append(Table(work, [Row(case) for case in work.cases(present, sizes)], missing))
    head = "\n".join(["# Benchmarks", "", *describe(cores, present)])
    with tempfile.TemporaryDirectory(prefix="trio-realtime-bench-") as name:
        folder = Path(name)
        bench = Bench(compile_c(SOURCE, folder), folder, cores, sizes)
        if options.smoke:
            run_smoke(bench, tables)
        else:
            for table in tables:
                run_full(bench, table, options.rounds)
    text = "\n".join([head, *(section(table) for table in tables)])
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")

    bad = [row for table in tables for row in table.faulty if options.smoke or row.case.peer.name == "ours"]
    for row in bad:
        progress(f"FAULT {row.case.label}: {'; '.join(row.remarks())}")
    for peer, why in absent.items():
        progress(f"absent {peer.title}: {why}")
    ours_missing = options.smoke and any(peer.name == "ours" for peer in absent)
    return 1 if bad or ours_missing else 0


def section(table: Table) -> str:
    """One work: its title and its table."""
    return "\n".join(["", f"## {table.work.title} (`{table.work.name}`)", "", *table.lines()])
