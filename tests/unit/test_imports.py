"""The direction of imports, held by reading them: no layer knows of one above it, and few modules know of Ray."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("actors", "config", "serve")

BASE = (
    "config",
    *(f"actors.{name}" for name in ("messages", "errors", "deadline", "breaker", "retries")),
    *(f"actors.{name}" for name in ("metrics", "answers", "tracing", "plan")),
)
PURE = ("actors.egress", "actors.reading", "actors.search", "actors.store", "actors.sql")
ROLES = tuple(
    f"actors.{name}"
    for name in (
        *(
            "orchestrator",
            "retrieval",
            "follower",
            "indexes",
            "shards",
            "entities",
            "pdf",
            "database",
            "units",
            "sources",
        ),
        *("ingest", "pool", "gate", "embedder"),
    )
)
ROOTS = ("actors.cluster", "actors.gateway", "actors")
LAYERS = (BASE, PURE, ROLES, ROOTS, ("serve",))

RAY = {"actors.cluster", "actors.pool", "actors.pdf", "serve.deployment"}


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} line {node.lineno}: a relative import"
            assert node.module
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def layer(module: str) -> int:
    """The layer a module belongs to: that of the longest name it lies below."""
    owners = [(name, number) for number, names in enumerate(LAYERS) for name in names]
    fitting = [(len(name), number) for name, number in owners if module == name or module.startswith(f"{name}.")]
    assert fitting, f"{module} has no layer: say in test_imports.py where it stands"
    return max(fitting)[1]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_from_a_layer_above(module: str) -> None:
    # `from actors.errors import …` runs actors/__init__.py, which is why that file imports nothing but messages itself.
    above = {
        name for name in imports(MODULES[module]) if name.split(".")[0] in PACKAGES and layer(name) > layer(module)
    }
    assert above == set()


def test_only_the_composition_root_and_the_ways_to_ray_import_it() -> None:
    importing = {
        module for module, path in MODULES.items() if any(name.split(".")[0] == "ray" for name in imports(path))
    }
    assert importing <= RAY


def test_importing_the_public_package_does_not_import_ray() -> None:
    at_import = [
        node
        for node in ast.parse(MODULES["actors"].read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {node.module for node in at_import if isinstance(node, ast.ImportFrom)}
    assert not any(layer(name) == layer("actors") for name in names if name and name.startswith("actors."))


def test_settings_are_handed_down_not_loaded_where_they_are_used() -> None:
    loading = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and node.module in {"config", "config.settings"}
        and {alias.name for alias in node.names} & {"load", "load_with_origins"}
    }
    assert loading <= {"config", "actors.gateway", "serve.cli", "serve.deployment", "serve.terminal"}


@pytest.mark.parametrize("folder", ["tests/unit", "tests/integration", "tests/acceptance", "tests"])
def test_test_folders_are_no_packages(folder: str) -> None:
    # One named like a package would shadow it.
    assert not (ROOT / folder / "__init__.py").exists()
