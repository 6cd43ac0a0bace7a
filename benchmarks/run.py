"""`python benchmarks/run.py`, from any folder: the same as `python -m benchmarks` in the repository."""

import os
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    os.chdir(root)
    sys.path[0] = str(root)
    runpy.run_module("benchmarks", run_name="__main__")
