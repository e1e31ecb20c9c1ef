"""The documents say what the code does: the reference is what the code writes, links lead somewhere, examples parse."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from serve.cli import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if path.name not in {"CHANGELOG.md"}
)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "scripts" / "write_reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_code_writes(writer: ModuleType) -> None:
    for name, text in writer.pages().items():
        written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
        assert written == text, f"docs/reference/{name} is stale: run scripts/write_reference.py"


def test_every_command_argument_and_option_says_what_it_is(writer: ModuleType) -> None:
    import typer

    for name, command in writer._commands("gatherum", typer.main.get_command(app)):
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(path: Path) -> None:
    targets = [target for target, _ in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_examples_in_python_and_yaml_parse(path: Path) -> None:
    for language, code in FENCE.findall(path.read_text(encoding="utf-8")):
        if language == "python":
            compile(code, path.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        elif language == "yaml":
            yaml.safe_load(code)


def test_commands_shown_in_the_readme_exist(writer: ModuleType) -> None:
    import typer

    known = {name for name, _ in writer._commands("gatherum", typer.main.get_command(app))}
    shown = re.findall(r"^\.venv/bin/(gatherum \w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert shown
    assert set(shown) <= known


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.svg")), ids=lambda path: path.name)
def test_pictures_are_well_formed_and_described(path: Path) -> None:
    root = ET.parse(path).getroot()  # noqa: S314 - our own file
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    assert root.find("{http://www.w3.org/2000/svg}desc") is not None


def test_make_has_the_targets_it_names() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("install", "run", "test", "lint", "bench", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        assert f"make {target}" in makefile


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-build.txt"])
def test_requirements_are_locked_by_hash_and_name_no_host(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index-url" not in text
    pins = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert pins
    for pin in pins:
        assert re.match(r"[\w.\[\],-]+==\S+", pin), pin
        assert "--hash=sha256:" in pin


def test_the_locks_hold_every_direct_requirement() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    def name(requirement: str) -> str:
        return re.split(r"[\[<>=~! ]", requirement)[0].lower().replace("_", "-")

    def locked(file: str) -> set[str]:
        text = (ROOT / file).read_text(encoding="utf-8")
        return {name(line) for line in text.splitlines() if line[:1].isalnum()}

    wanted = {name(requirement) for requirement in project["project"]["dependencies"]}
    assert wanted <= locked("requirements.txt")
    extra = {name(requirement) for requirement in project["project"]["optional-dependencies"]["dev"]}
    assert wanted | extra <= locked("requirements-dev.txt")
    assert {name(requirement) for requirement in project["build-system"]["requires"]} <= locked(
        "requirements-build.txt"
    )
