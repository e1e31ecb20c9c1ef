"""What is said of a role that could not start."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError

from actors import cluster
from actors.cluster import _reason
from actors.errors import Conflict, InvalidInput, ReadingFailed
from actors.node import Running
from actors.reading import tasks
from actors.search import models
from actors.search.wordpieces import default
from config.settings import load
from serve import system


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


class RayStarted(Exception):
    """In place of a cluster."""


def test_a_missing_language_pack_is_found_before_ray_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(languages: tuple[str, ...]) -> None:
        raise ReadingFailed(f"Tesseract has no language pack {languages[1]}.")

    def start(*_: Any, **__: Any) -> None:
        raise RayStarted

    monkeypatch.setattr(tasks, "check_ocr", missing)
    monkeypatch.setattr(cluster, "start", start)
    monkeypatch.setattr(system, "flags", lambda folder: {})
    settings = load({"data_dir": tmp_path, "api.port": 0, "pdf.ocr_languages": ["eng", "xyz"]}, environ={})
    with pytest.raises(ReadingFailed, match="no language pack xyz"):
        system.up(settings)
    # Another cluster has its own Tesseract.
    with pytest.raises(RayStarted):
        system.up(settings, address="there:6379")


def test_a_folder_that_is_no_encoder_is_found_before_ray_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise RayStarted

    monkeypatch.setattr(tasks, "check_ocr", lambda languages: None)
    monkeypatch.setattr(cluster, "start", start)
    monkeypatch.setattr(system, "flags", lambda folder: {})
    folder = tmp_path / "model"
    given = {"data_dir": tmp_path, "api.port": 0, "encoder.kind": "folder", "encoder.path": str(folder)}
    with pytest.raises(InvalidInput, match=r"encoder\.path \(.*model\): .*must hold model\.onnx"):
        system.up(load(given, environ={}))
    # Another hash is no reason not to start: searches go by words then.
    folder.mkdir()
    (folder / "model.onnx").symlink_to(models.MINILM.path)
    default()._tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(RayStarted):
        system.up(load({**given, "encoder.sha256": "0" * 64}, environ={}))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"tokenizer\.json .* is no tokenizer"):
        system.up(load(given, environ={}))


def test_a_second_start_is_told_of_the_first_and_not_of_its_port(tmp_path: Path) -> None:
    Running("http://127.0.0.1:8000", "127.0.0.2:6379", None).save(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = load({"data_dir": tmp_path, "api.port": taken.getsockname()[1]}, environ={})
        with pytest.raises(Conflict, match=r"running in this data directory already, at http://127\.0\.0\.1:8000"):
            system.up(settings)
