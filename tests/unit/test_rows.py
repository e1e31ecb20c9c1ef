"""Rows on their way out: names of columns that are alike, and values nested deeper than JSON is written."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import InvalidInput
from actors.sql import mysql, postgres
from actors.sql.running import Column
from serve.rows import encode, names_of


@given(st.lists(st.sampled_from(["id", "id_2", "id_3", "id_2_2", ""])))
def test_no_two_names_are_alike_and_the_first_keeps_its_own(names: list[str]) -> None:
    found = names_of([Column(name) for name in names])
    assert len(set(found)) == len(found) == len(names)
    for name, own in zip(found, names, strict=True):
        assert name.startswith(own)
    if names:
        assert found[0] == names[0]


def test_as_many_of_one_name_as_a_server_sends_cost_no_time() -> None:
    began = time.thread_time()
    assert names_of([Column("id")] * 4096)[-1] == "id_4096"
    assert time.thread_time() - began < 0.5


def test_what_is_nested_too_deeply_for_json_is_text_or_told() -> None:
    deep = "[" * 5000 + "]" * 5000
    assert postgres._CODECS["jsonb"](deep) == postgres._CODECS["json"](deep) == deep
    assert mysql._with_json((1, deep, '{"a": 1}'), (1, 2)) == (1, deep, {"a": 1})
    nested: list[Any] = []
    for _ in range(500):
        nested = [nested]
    with pytest.raises(InvalidInput, match="too deeply"):
        encode({"rows": [nested]})
