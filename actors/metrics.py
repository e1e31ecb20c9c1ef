"""Metrics: what a process counts and measures of itself, in Prometheus' text form.

Every process has one register, since what it counts is of the process: its requests, its calls, its event loop. The
HTTP replicas gather them from all actors, so there is one place to scrape, and no port of Ray's need be open for it.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LAGS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)
TIMES: Final = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0)

LAG_EVERY_S: Final = 0.05
"""How often the event loop is asked how late it is, s."""

Labels = tuple[str, ...]
M = TypeVar("M", bound="Metric")


class Metric:
    """One name, with a value for each set of labels.

    Args:
        name: as Prometheus has it.
        about: one line.
        labels: names of the labels.
    """

    kind = ""

    def __init__(self, name: str, about: str, *labels: str) -> None:
        self.name = name
        self.about = about
        self.labels = labels

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Each value, with the end of its name and its labels."""
        raise NotImplementedError


class Counter(Metric):
    """Only grows."""

    kind = "counter"

    def __init__(self, name: str, about: str, *labels: str) -> None:
        super().__init__(name, about, *labels)
        self.values: dict[Labels, float] = {}

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Count something."""
        self.values[labels] = self.values.get(labels, 0.0) + by

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """See `Metric`."""
        for labels, value in self.values.items():
            yield "", dict(zip(self.labels, labels, strict=True)), value


class Gauge(Metric):
    """Goes up and down; its values are asked for when they are looked at."""

    kind = "gauge"

    def __init__(self, name: str, about: str, *labels: str) -> None:
        super().__init__(name, about, *labels)
        self._read: dict[Labels, Callable[[], float]] = {}

    def of(self, *labels: str, read: Callable[[], float]) -> None:
        """Say where a value comes from."""
        self._read[labels] = read

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """See `Metric`."""
        for labels, read in self._read.items():
            yield "", dict(zip(self.labels, labels, strict=True)), read()


class Histogram(Metric):
    """How often a measured value was up to each of some bounds.

    Args:
        name: as Prometheus has it.
        about: one line.
        labels: names of the labels.
        bounds: ascending.
    """

    kind = "histogram"

    def __init__(self, name: str, about: str, *labels: str, bounds: tuple[float, ...] = SECONDS) -> None:
        super().__init__(name, about, *labels)
        self._bounds = bounds
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Measure something."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
            self._sums[labels] = 0.0
        counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """See `Metric`."""
        for labels, counts in self._counts.items():
            named = dict(zip(self.labels, labels, strict=True))
            total = 0
            for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
                total += count
                yield "_bucket", {**named, "le": "+Inf" if bound == float("inf") else f"{bound:g}"}, total
            yield "_sum", named, self._sums[labels]
            yield "_count", named, total


class Register:
    """The metrics of a process."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def counter(self, name: str, about: str, *labels: str) -> Counter:
        """A new counter."""
        return self._add(Counter(name, about, *labels))

    def gauge(self, name: str, about: str, *labels: str) -> Gauge:
        """A new gauge."""
        return self._add(Gauge(name, about, *labels))

    def histogram(self, name: str, about: str, *labels: str, bounds: tuple[float, ...] = SECONDS) -> Histogram:
        """A new histogram."""
        return self._add(Histogram(name, about, *labels, bounds=bounds))

    def _add(self, metric: M) -> M:
        if metric.name in self._metrics:
            raise ValueError(f"there is a metric {metric.name!r} already")
        self._metrics[metric.name] = metric
        return metric

    def families(self) -> dict[str, Family]:
        """Everything, small enough to travel."""
        return {metric.name: (metric.kind, metric.about, list(metric.samples())) for metric in self._metrics.values()}


Family = tuple[str, str, list[tuple[str, Mapping[str, str], float]]]
"""Kind, description and samples of a metric."""

PROCESS: Final = Register()
"""Of this process."""


def render(processes: Mapping[str, Mapping[str, Family]]) -> str:
    """Prometheus' text form.

    Args:
        processes: the families of each, by a name that becomes the label `replica`.
    """
    names: dict[str, tuple[str, str]] = {}
    for families in processes.values():
        names.update({name: (kind, about) for name, (kind, about, _) in families.items()})
    lines = []
    for name, (kind, about) in sorted(names.items()):
        lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
        for replica, families in processes.items():
            for end, labels, value in families.get(name, ("", "", []))[2]:
                told = ",".join(f'{key}="{_escaped(text)}"' for key, text in {"replica": replica, **labels}.items())
                lines.append(f"{name}{end}{{{told}}} {value:g}" if value % 1 else f"{name}{end}{{{told}}} {value:.0f}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


# --- of every process -------------------------------------------------------------------------------------------------

_LAG = PROCESS.histogram("gatherum_loop_lag_seconds", "How late the event loop was to wake a task.", bounds=LAGS_S)
_RSS = PROCESS.gauge("gatherum_resident_bytes", "Resident memory of the process.")
_RSS.of(read=lambda: float(_resident()))


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 -- pathlib would take ten times as long
        return int(file.read().split()[1]) * 4096


async def watch_loop() -> None:
    """Measure the event loop's lag for ever."""
    while True:
        due = time.perf_counter() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        _LAG.observe(max(0.0, time.perf_counter() - due))
