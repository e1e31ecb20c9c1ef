"""The error tree: each class crosses a process border whole, and is told apart by its code."""

from __future__ import annotations

import ast
import inspect
import pickle
from collections.abc import Iterator
from http import HTTPStatus
from types import ModuleType

import pytest
from ray import cloudpickle

from actors import errors
from actors.errors import GatherumError, InvalidInput


def tree(base: type[GatherumError] = GatherumError) -> Iterator[type[GatherumError]]:
    yield base
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


CLASSES = list(tree())


@pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=lambda module: module.__name__)
@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_an_error_survives_the_border(error: type[GatherumError], pickler: ModuleType) -> None:
    before = error("Say what is wrong, and what to do.")
    after = pickle.loads(pickler.dumps(before))  # noqa: S301 - our own bytes
    assert type(after) is error
    assert after.detail == str(after) == "Say what is wrong, and what to do."
    assert (after.code, after.http_status, after.retryable) == (before.code, before.http_status, before.retryable)


def test_codes_are_unique_and_their_own() -> None:
    codes = [vars(error).get("code") for error in CLASSES]
    assert None not in codes, "a class inherits its parent's code"
    assert len(set(codes)) == len(codes)


def test_statuses_are_errors_and_match_the_branch_of_the_tree() -> None:
    for error in CLASSES:
        assert HTTPStatus(error.http_status).value >= 400
        if issubclass(error, InvalidInput):
            assert error.http_status < 500, f"{error.__name__} blames the server for the caller's input"
        assert error.retryable == (error.http_status in {429, 503})


def test_the_drawing_at_the_top_shows_every_class() -> None:
    assert errors.__doc__
    assert [name.__name__ for name in CLASSES if name.__name__ not in errors.__doc__] == []


def test_every_class_says_when_it_is_raised() -> None:
    classes = [node for node in ast.parse(inspect.getsource(errors)).body if isinstance(node, ast.ClassDef)]
    assert len(classes) == len(CLASSES)
    assert all(ast.get_docstring(node) for node in classes)
