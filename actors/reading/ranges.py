"""Plans how the pages of a document are dealt out to tasks, and again after a task has failed.

A failed range is not halved again and again until the bad page is found: each crash costs a new process, and each hang
a whole page's time limit. Its pages are tried once more one by one, which costs one more failure for each bad page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.reading.pages import Why


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
