"""What is said of a role that could not start."""

from __future__ import annotations

import pytest
from ray.exceptions import RayActorError

from actors.cluster import _reason


class Died(RayActorError):
    """As Ray raises it: its text is a traceback."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("actors.errors.ReadingFailed: No language pack: xyz.", "No language pack: xyz."),
        ("ValueError: 'xyz'", "ValueError: 'xyz'"),
        ("actors.errors.Unavailable", "actors.errors.Unavailable"),
    ],
)
def test_our_own_errors_speak_for_themselves(last: str, said: str) -> None:
    assert _reason(Died(f"The actor died.\nTraceback (most recent call last):\n  File …\n{last}\n")) == said


def test_an_error_without_words_has_its_name() -> None:
    assert _reason(Died("")) == "Died"
