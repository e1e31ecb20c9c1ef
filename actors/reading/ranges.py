"""Plans how the pages of a document are dealt out to tasks, and again after a task has failed.

A range whose task died is cut in two, and its parts again, until the bad page is alone; what lies beside it is read on
the way. So a page is given up only after it failed alone and in every range it lay in. That matters because a process
may be killed for what another one did: where one in ten is, a good page of a range of 16 fails five times in a row with
a chance of one in a hundred thousand, and it would be one in a hundred if each page were tried alone after the range.

Where the task ran into its time limit, each page is tried alone at once. Every further failure costs the whole limit
again, so there are to be as few as can be: with one page of 16 that hangs it is two limits, and five by halves, a
minute or two and a half. A crash costs a new process: such a range takes 3.3 s by halves and 1.9 s page by page (two
cores), which is worth the better chance of the good ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from actors.reading.triage import Why

QUICK: Final = 4  # times as many pages a task where only text is wanted


@dataclass(frozen=True, slots=True)
class Range:
    """The pages of one task.

    Attributes:
        pages: ascending, from 1.
        whys: for pages to be recognised optically, what is wrong with the text of each; else empty.
        retry: whether the pages failed before.
    """

    pages: tuple[int, ...]
    whys: tuple[Why, ...] = ()
    retry: bool = False


def split(pages: Iterable[int], size: int) -> list[Range]:
    """Ranges of consecutive pages, each of at most `size`; order and repetitions of `pages` do not matter."""
    ranges: list[Range] = []
    run: list[int] = []
    for page in sorted(set(pages)):
        if run and (page != run[-1] + 1 or len(run) == size):
            ranges.append(Range(tuple(run)))
            run = []
        run.append(page)
    if run:
        ranges.append(Range(tuple(run)))
    return ranges


def quick_size(pages: int, size: int, tasks: int) -> int:
    """How many pages a task reads where only text is wanted, which takes 2 ms a page.

    To open a document of 1,200 pages and load its fonts takes 10 to 20 ms, and to hand a range over takes 8 ms: at 16
    pages a task that was 4.9 s of CPU for the document, at 64 it is 3.5 s, where reading alone is 2.8 s.

    Args:
        pages: to be read.
        size: of a range that takes longer; the least.
        tasks: that run or wait at once, each of which should get a share.
    """
    return max(size, min(QUICK * size, -(-pages // tasks)))


def split_scanned(found: Sequence[tuple[int, Why]], size: int) -> list[Range]:
    """Ranges of at most `size` pages that need optical recognition.

    Args:
        found: page numbers, ascending, each with what is wrong with its text.
        size: most pages in a range.
    """
    parts = [found[start : start + size] for start in range(0, len(found), size)]
    return [Range(tuple(page for page, _ in part), tuple(why for _, why in part)) for part in parts]


def after_failure(failed: Range, *, slow: bool) -> list[Range]:
    """What to try after a range failed: its halves, or each page; a page alone once more, unless it failed before.

    Args:
        failed: the range.
        slow: whether it ran into its time limit.

    Returns:
        Ranges of the same pages; none if the page is to be given up.
    """
    count = len(failed.pages)
    if count == 1 and failed.retry:
        return []
    size = 1 if slow else -(-count // 2)
    return [
        Range(failed.pages[start : start + size], failed.whys[start : start + size], retry=True)
        for start in range(0, count, size)
    ]


def ingest_width(total: float, wanted: float, task_cpus: float, replicas: int) -> int:
    """How many page tasks of ingestion one replica may have at once; at least 1.

    Args:
        total: CPUs of the cluster.
        wanted: CPUs that ingestion may use; 0 for all but one, or for all where there are no more than two: a core of
            two would halve the speed of every upload, and page tasks give way to questions by their priority as well.
        task_cpus: that a page task reserves.
        replicas: that share them.
    """
    cpus = min(wanted, total) if wanted else total - 1 if total > 2 else total
    return max(1, int(cpus / task_cpus / replicas))
