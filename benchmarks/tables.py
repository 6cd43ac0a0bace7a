"""Turns samples into tables: medians, spread, ratios, and what went wrong, in Markdown that also reads as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from benchmarks.bench import Case, Column, Sample, Work


@dataclass
class Row:
    """All samples of one case, and why it has none."""

    case: Case
    samples: list[Sample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def values(self, column: Column) -> list[float]:
        return [sample.values[column.key] for sample in self.samples if column.key in sample.values]

    def middle(self, column: Column) -> float | None:
        values = self.values(column)
        return median(values) if values else None

    def remarks(self) -> list[str]:
        """Faults and notes, each once."""
        said = [text for sample in self.samples for text in sample.faults + sample.notes]
        return list(dict.fromkeys([*self.failures, *said]))

    @property
    def faulty(self) -> bool:
        return bool(self.failures or any(sample.faults for sample in self.samples))


@dataclass
class Table:
    """The rows of one work; `absent` names the peers that could not be started here."""

    work: Work
    rows: list[Row]
    absent: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The table in Markdown."""
        base = next((row for row in self.rows if row.case.peer.name == self.work.baseline), None)
        rated = [column for column in self.work.columns if column.ratio and base and base.samples]
        titles = ["server", *(column.title for column in self.work.columns)]
        titles += [f"{column.title} x {self.work.baseline}" for column in rated]
        titles += ["min - max", "remarks"]
        body = [self._cells(row, rated, base) for row in self.rows]
        width = len(titles)
        body += [[title, *["-"] * (width - 2), f"absent: {why}"] for title, why in self.absent.items()]
        rule = ["---", *["---:"] * (width - 2), "---"]
        return [f"| {' | '.join(cells)} |" for cells in [titles, rule, *body]]

    def _cells(self, row: Row, rated: list[Column], base: Row | None) -> list[str]:
        cells = [row.case.label, *(number(row.middle(column), column.digits) for column in self.work.columns)]
        for column in rated:
            own, other = row.middle(column), base.middle(column) if base else None
            cells.append(number(own / other, 2) if own is not None and other else "-")
        main = next(column for column in self.work.columns if column.main)
        values = row.values(main)
        spread = f"{number(min(values), main.digits)} - {number(max(values), main.digits)}" if values else "-"
        return [*cells, spread, "; ".join(row.remarks())]

    @property
    def faulty(self) -> list[Row]:
        return [row for row in self.rows if row.faulty]


def number(value: float | None, digits: int) -> str:
    """A number as people read it, or a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"
