"""Settings: precedence, origins, and errors that name what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config import settings as module
from config.settings import ALIASES, Section, Settings, SettingsError, load, load_with_origins

DEFAULTS = load(environ={"GATHERUM_CONFIG": "/dev/null"})


def sections() -> dict[str, type[Section]]:
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def keys() -> list[str]:
    plain = [name for name in Settings.model_fields if name not in sections()]
    return plain + [f"{name}.{key}" for name, section in sections().items() for key in section.model_fields]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gatherum.yaml"
    path.write_text("api: {port: 1000}\nlogs: {level: DEBUG}\n")
    return path


def test_every_setting_has_a_default_in_the_file_and_a_description() -> None:
    loaded = load_with_origins(environ={"GATHERUM_CONFIG": "/dev/null"})
    assert sorted(loaded.origins) == sorted(keys())
    assert set(loaded.origins.values()) == {"config/default.yaml"}
    described = [field for section in sections().values() for field in section.model_fields.values()]
    assert all(field.description for field in described)
    # A default in the class would be a second truth beside the file.
    assert all(field.is_required() for field in described)


def test_each_layer_is_above_the_one_before(file: Path) -> None:
    environ = {"GATHERUM_CONFIG": str(file)}
    assert load(environ=environ).api.port == 1000
    environ |= {"GATHERUM_API__PORT": "1001"}
    assert load(environ=environ).api.port == 1001
    loaded = load_with_origins({"api.port": 1002}, environ=environ)
    assert loaded.settings.api.port == 1002
    assert loaded.origins["api.port"] == "command line"
    assert loaded.origins["logs.level"] == str(file)
    assert loaded.origins["api.host"] == "config/default.yaml"


def test_an_override_of_none_is_no_override() -> None:
    loaded = load_with_origins({"api.port": None}, environ={"GATHERUM_CONFIG": "/dev/null"})
    assert loaded.settings.api.port == DEFAULTS.api.port
    assert loaded.origins["api.port"] == "config/default.yaml"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("DATABASE_URL", "sqlite+aiosqlite:////x.db", "sqlite+aiosqlite:////x.db"),
        ("ASYNC_TIMEOUT", "7.5", 7.5),
        ("MAX_CONCURRENT_REQUESTS", "12", 12),
        ("BACKGROUND_TASK_WORKERS", "3", 3),
    ],
)
def test_plain_names_are_honoured(name: str, text: str, value: Any, file: Path) -> None:
    section, key = ALIASES[name]
    loaded = load_with_origins(environ={name: text, "GATHERUM_CONFIG": str(file)})
    assert getattr(getattr(loaded.settings, section), key) == value
    assert loaded.origins[f"{section}.{key}"] == name


def test_the_prefixed_name_is_above_the_plain_one() -> None:
    environ = {"ASYNC_TIMEOUT": "1", "GATHERUM_ORCHESTRATOR__TIMEOUT_S": "2", "GATHERUM_CONFIG": "/dev/null"}
    assert load(environ=environ).orchestrator.timeout_s == 2


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({"GATHERUM_API__PRT": "1"}, ["api.prt", "GATHERUM_API__PRT", "no such setting"]),
        ({"GATHERUM_API__PORT": "x"}, ["api.port", "GATHERUM_API__PORT", "'x'"]),
        ({"GATHERUM_API__PORT": "70000"}, ["api.port", "65535"]),
        ({"ASYNC_TIMEOUT": "0"}, ["orchestrator.timeout_s", "ASYNC_TIMEOUT"]),
        ({"GATHERUM_APY__PORT": "1"}, ["apy", "no such setting"]),
        ({"GATHERUM_INGEST__HEARTBEAT_S": "11"}, ["ingest.heartbeat_s", "GATHERUM_INGEST__HEARTBEAT_S", "third"]),
        ({"GATHERUM_EGRESS__ALLOW_HOSTS": "[ok, 'http://x/']"}, ["egress.allow_hosts", "'http://x/'", "host:port"]),
        ({"GATHERUM_EGRESS__ALLOW_HOSTS": "[10.0.0.1/8]"}, ["egress.allow_hosts", "10.0.0.1/8"]),
        ({"GATHERUM_DATA_DIR__X": "1"}, ["data_dir"]),
        ({"GATHERUM_CONFIG": "/nowhere/g.yaml"}, ["/nowhere/g.yaml"]),
    ],
)
def test_what_is_wrong_is_named(environ: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(environ={"GATHERUM_CONFIG": "/dev/null"} | environ)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize("content", ["- a list", "api: {port: [", "just text"])
def test_a_file_that_is_no_mapping_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=r"bad\.yaml"):
        load(environ={"GATHERUM_CONFIG": str(path)})


def test_lists_come_from_the_environment_as_yaml() -> None:
    environ = {"GATHERUM_PDF__OCR_LANGUAGES": "[eng, deu]", "GATHERUM_CONFIG": "/dev/null"}
    assert load(environ=environ).pdf.ocr_languages == ("eng", "deu")


def test_the_folder_of_the_corpora_is_no_setting() -> None:
    assert load(environ={"GATHERUM_DATA": "/corpora", "GATHERUM_CONFIG": "/dev/null"}) == DEFAULTS


def test_a_file_in_the_working_directory_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load(environ={}).api.port == 1000


def test_the_data_directory_is_absolute_and_the_embedded_store_lies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load({"data_dir": "some/where"}, environ={"GATHERUM_CONFIG": "/dev/null"})
    assert settings.data_dir == Path.cwd() / "some" / "where"
    assert settings.database_url == f"sqlite+aiosqlite:///{settings.data_dir}/gatherum.db"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        DEFAULTS.api.port = 1


@given(st.dictionaries(st.sampled_from(["api.port", "ingest.workers", "pdf.max_pages"]), st.integers(1, 60000)))
def test_what_is_overridden_is_what_comes_out_and_nothing_else(overrides: dict[str, int]) -> None:
    loaded = load_with_origins(overrides, environ={"GATHERUM_CONFIG": "/dev/null"})
    for key in keys():
        parts = key.split(".")
        value: Any = loaded.settings
        default: Any = DEFAULTS
        for part in parts:
            value, default = getattr(value, part), getattr(default, part)
        assert value == overrides.get(key, default)
        assert loaded.origins[key] == (
            "command line" if key in overrides else module.DEFAULTS.parent.name + "/default.yaml"
        )
