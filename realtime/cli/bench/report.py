"""What a load test has found, for people and for programs. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from realtime.cli.bench.figures import Histogram

__all__ = ["Report", "warnings", "words"]

#: A process that is busier than this may be what is measured.
_BUSY = 0.9
#: A publish that begins so late has not been when it was meant to be; a turn of a loop is much less.
_LATE_SECONDS = 0.1
_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


class Report(msgspec.Struct, kw_only=True):
    """See the module. Times in milliseconds where the name says nothing else."""

    transport: str
    connections: int
    #: Of each of the connections.
    connects_per_second: float
    size: int
    rate: float
    #: All that was published and accepted, that which warmed up too; and what was refused or had no answer.
    published: int
    refused: int
    #: What the first refusal said.
    refusal: str | None
    #: Of what was accepted.
    delivered: int
    #: Deliveries of what had no answer, and yet was published.
    unconfirmed: int
    #: After the warm-up.
    deliveries_per_second: float
    lost: int
    duplicated: int
    lost_connections: int
    latency_ms: dict[str, float]
    #: The most that a publish began too late.
    late_seconds: float
    #: Shares of one core that the bench itself has used: who publishes, and the busiest of those who receive.
    publisher_cpu: float
    receiver_cpu: float

    @staticmethod
    def percentiles(latencies: Histogram, longest: int) -> dict[str, float]:
        """In milliseconds, from nanoseconds."""
        found = {name: round(latencies.percentile(share) / 1e6, 2) for name, share in _SHARES.items()}
        return found | {"max": round(longest / 1e6, 2)}

    @property
    def faulty(self) -> bool:
        """Whether something was lost, came twice, or was refused."""
        return bool(self.lost or self.duplicated or self.lost_connections or self.refused)


def words(report: Report) -> Iterator[str]:
    """The report, line by line."""
    latency = "  ".join(f"{name} {value:.2f}" for name, value in report.latency_ms.items())
    yield f"connections    {report.connections:,} by {report.transport}, {report.connects_per_second:,.0f} a second"
    yield f"published      {report.published:,}" + (f", refused {report.refused:,}" if report.refused else "")
    yield (
        f"delivered      {report.delivered:,}, {report.deliveries_per_second:,.0f} a second;"
        f" lost {report.lost:,}, duplicated {report.duplicated:,}"
    )
    yield f"latency, ms    {latency}"
    yield f"own CPU        publishing {report.publisher_cpu:.0%}, receiving {report.receiver_cpu:.0%} of a core"


def warnings(report: Report) -> Iterator[str]:
    """What makes the figures worth less, or is a fault."""
    for name, share in (("publishing", report.publisher_cpu), ("receiving", report.receiver_cpu)):
        if share > _BUSY:
            more = "; try --processes" if name == "receiving" else ""
            yield f"the bench itself was the limit: {name} took {share:.0%} of a core{more}"
    if report.late_seconds > _LATE_SECONDS:
        yield f"the bench fell behind its schedule: publishes began up to {report.late_seconds:.2f} s late"
    if report.refused:
        yield f"{report.refused:,} publishes were refused or had no answer: {report.refusal}"
    if report.unconfirmed:
        yield f"{report.unconfirmed:,} deliveries more were of publishes that had failed: without an answer, but done"
    if report.lost_connections:
        yield f"{report.lost_connections:,} connections were lost"
    if report.lost or report.duplicated:
        yield f"{report.lost:,} deliveries were lost, {report.duplicated:,} came twice"
