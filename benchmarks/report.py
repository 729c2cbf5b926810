"""Collects the runs of a benchmark, prints its table and writes its JSON."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from benchmarks.machine import machine_facts, program_versions
from benchmarks.measure import Cost

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(slots=True)
class Series:
    """All runs of one contestant at one task."""

    task: str
    who: str
    unit: str = "s"
    values: list[float] = field(default_factory=list)
    work_bytes: int = 0
    """Bytes of work in one run; what a rate is taken from. 0: there is no rate."""
    peak_rss_bytes: list[int] = field(default_factory=list)
    peak_tree_bytes: list[int] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    stored_bytes: list[int] = field(default_factory=list)

    def add(self, value: float | Cost, *, stored_bytes: int | None = None) -> None:
        """One more run."""
        if isinstance(value, Cost):
            self.values.append(value.seconds)
            self.peak_rss_bytes.append(value.peak_rss_bytes)
            self.peak_tree_bytes.append(value.peak_tree_bytes)
            self.cpu_seconds.append(value.cpu_seconds)
        else:
            self.values.append(value)
        if stored_bytes is not None:
            self.stored_bytes.append(stored_bytes)

    @property
    def median(self) -> float:
        """Median of all runs."""
        return statistics.median(self.values)

    @property
    def rate(self) -> float:
        """Megabytes (10^6) a second at the median, 0 where a run has no bytes of work."""
        return self.work_bytes / 1e6 / self.median if self.work_bytes else 0.0

    def as_json(self) -> dict[str, object]:
        """Every run and their summary; empty lists left out."""
        row: dict[str, object] = {
            "task": self.task,
            "who": self.who,
            "unit": self.unit,
            "min": min(self.values),
            "median": self.median,
            "max": max(self.values),
            "runs": self.values,
        }
        if self.work_bytes:
            row |= {"work_bytes": self.work_bytes, "median_mb_per_s": round(self.rate, 1)}
        lists = {
            "peak_rss_bytes": self.peak_rss_bytes,
            "peak_tree_bytes": self.peak_tree_bytes,
            "cpu_seconds": self.cpu_seconds,
            "stored_bytes": self.stored_bytes,
        }
        return row | {name: values for name, values in lists.items() if values}


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio the project wants to reach: ``value`` next to ``limit``."""

    what: str
    value: float
    limit: float
    at_least: bool

    @property
    def reached(self) -> bool:
        """Whether the value is on the right side of the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def as_json(self) -> dict[str, object]:
        """The figure, the limit and the verdict."""
        sign = ">=" if self.at_least else "<="
        value = float(f"{self.value:.6g}")
        return {"what": self.what, "value": value, "reach": f"{sign} {self.limit:g}", "reached": self.reached}


class Report:
    """One benchmark's results: series by task and contestant, targets, facts.

    A context manager: what was measured is written when it ends, also where a later step failed (then the JSON says
    ``"complete": false``), because a run can take hours.
    """

    def __init__(
        self, name: str, arguments: Mapping[str, object], programs: Sequence[str] = (), *, out: Path | None = None
    ) -> None:
        self.name = name
        self._out = out or RESULTS / f"{name}.json"
        self.facts: dict[str, object] = {}
        self._arguments = arguments
        self._programs = programs
        self._series: dict[tuple[str, str], Series] = {}
        self._targets: list[Target] = []
        self._notes: list[str] = []
        self._began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if any(one.values for one in self._series.values()):
            self._write(complete=kind is None)

    def series(self, task: str, who: str, *, unit: str = "s", work_bytes: int = 0) -> Series:
        """The series of a contestant at a task, made on first use."""
        found = self._series.setdefault((task, who), Series(task, who, unit))
        if work_bytes:
            found.work_bytes = work_bytes
        return found

    def has(self, task: str, *who: str) -> bool:
        """Whether each contestant has at least one run of the task."""
        return all((found := self._series.get((task, name))) is not None and found.values for name in who)

    def target(self, what: str, value: float, limit: float, *, at_least: bool) -> None:
        """Record a figure next to what the project wants to reach."""
        self._targets.append(Target(what, value, limit, at_least))

    def note(self, text: str) -> None:
        """Record what a reader of the figures must know."""
        self._notes.append(text)
        print(f"note: {text}", flush=True)

    def table(self) -> str:
        """The results as aligned text."""
        rows = [("task", "who", "min", "median", "max", "MB/s", "peak MB")]
        for one in self._series.values():
            if not one.values:
                continue
            numbers = [f"{value:,.3f} {one.unit}" for value in (min(one.values), one.median, max(one.values))]
            rate = f"{one.rate:,.0f}" if one.rate else ""
            peak = f"{max(one.peak_rss_bytes) / 1e6:,.0f}" if one.peak_rss_bytes else ""
            rows.append((one.task, one.who, numbers[0], numbers[1], numbers[2], rate, peak))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in cells)
            for row in rows
            for cells in [list(enumerate(zip(row, widths, strict=True)))]
        ]
        for one_target in self._targets:
            row = one_target.as_json()
            verdict = "reached" if one_target.reached else "MISSED"
            lines.append(f"{verdict}: {row['what']}: {row['value']} (reach {row['reach']})")
        return "\n".join(lines)

    def _write(self, *, complete: bool) -> None:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "benchmark": self.name,
            "complete": complete,
            "began": self._began,
            "arguments": self._arguments,
            "machine": machine_facts(),
            "versions": program_versions(self._programs),
            "facts": self.facts,
            "results": [one.as_json() for one in self._series.values() if one.values],
            "targets": [one.as_json() for one in self._targets],
            "notes": self._notes,
        }
        self._out.write_text(json.dumps(document, indent=2) + "\n")
        print(self.table(), flush=True)
        print(f"written to {self._out}", flush=True)
