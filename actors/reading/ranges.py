"""Plans how the pages of a document are dealt out to tasks, and again after a task has failed.

A failed range is not halved again and again until the bad page is found, but tried once more page by page. Each failure
costs a new process or, where a page hangs, its whole time limit. In a range of 16 with one bad page, halving fails six
times (16, 8, 4, 2, 1 and the second chance), page by page twice: three minutes or one, at 30 s a page. With every page
bad it is 47 failures or 17, and whichever pages are bad, never fewer. What halving saves is tasks, 10 instead of 17,
and a task for one page takes milliseconds: of 1,000 pages with one bad, 79 tasks read 999, and two of them fail. A page
alone has its second chance because the process may have been killed for what another one did.
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


def after_failure(failed: Range) -> list[Range]:
    """What to try after a range failed: each page alone, once; nothing if that was the second time."""
    if failed.retry:
        return []
    return [Range((page,), failed.whys[index : index + 1], retry=True) for index, page in enumerate(failed.pages)]


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
