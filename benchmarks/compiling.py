"""Compiles the C sources of the benchmarks, at the start of every run: nothing binary is kept."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

COMPILE_SECONDS = 60


@cache
def compile_c(source: Path, folder: Path) -> Path:
    """Compile one source file into `folder`, once a run."""
    target = folder / source.stem
    command = ["cc", "-O2", "-std=gnu11", "-o", str(target), str(source)]
    subprocess.run(command, check=True, timeout=COMPILE_SECONDS)
    return target
