"""``bench``: a small load test. `realtime.cli.bench.command` publishes, `realtime.cli.bench.receiver` receives."""

from __future__ import annotations

from realtime.cli.bench.command import bench

__all__ = ["bench"]
