"""Answers as JSON: one encoded answer serves several requests."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Answer
from actors.search.encoding import addressed_to, encode_answer

ID = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)


@given(ID, ID, st.text())
def test_an_answer_for_another_request_differs_in_nothing_but_the_id(own: str, other: str, question: str) -> None:
    def answer(request_id: str) -> bytes:
        return encode_answer(Answer(request_id, question, "text", "extractive", (), (), (), (), (), False, (), 1.0))

    assert addressed_to(answer(own), other) == answer(other)
    assert orjson.loads(addressed_to(answer(own), own)) == orjson.loads(answer(own))
