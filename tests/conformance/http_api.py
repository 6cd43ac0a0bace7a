"""Hold a running server against its own OpenAPI document, with schemathesis: ``nox -s schemathesis``.

Left out are the front door's endpoints, which wait for something to come or need a live connection, and one check: that
what fits the schema is accepted. Which topics there may be is the operator's choice, which of them there are is the
moment's, and no schema tells either.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLES = 15
#: The last phase, sequences of requests, takes what there is.
SECONDS = 120
KEY = "conformance"


def main() -> int:
    """Start a server, have it looked at, stop it; the exit code."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    with subprocess.Popen(
        [sys.executable, "-m", "realtime", "serve", "--port", "0"],
        # It guesses on purpose, from one address.
        env={**environment, "REALTIME_API_KEYS": KEY, "REALTIME_REFUSAL_RATE": "off"},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"http://\S+", server.stdout.readline())
            return 1 if address is None else look_at(address[0])
        finally:
            server.terminate()


def look_at(url: str) -> int:
    """Run schemathesis, of this environment or from the path, on the server at this address."""
    beside = Path(sys.executable).parent / "schemathesis"
    program = str(beside) if beside.exists() else shutil.which("schemathesis")
    if program is None:
        raise SystemExit("schemathesis is not installed")
    options = {
        "--header": f"X-API-Key: {KEY}",
        "--exclude-path-regex": "^/(sse|poll)",
        "--exclude-checks": "positive_data_acceptance",
        "--max-examples": str(EXAMPLES),
        "--max-time": str(SECONDS),
        "--request-timeout": "10",
        "--seed": "1",
        "--generation-database": "none",
        "--warnings": "off",
    }
    arguments = [part for option in options.items() for part in option]
    with tempfile.TemporaryDirectory() as folder:  # for what it keeps from run to run
        command = [program, "run", f"{url}/openapi.json", *arguments]
        return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
