"""Writes `docs/reference/`: the settings and the command line, from the code that defines them.

A test compares the files with what this writes, so that no setting, option or command goes undocumented.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

from config.settings import ALIASES, CONFIG_VARIABLE, DEFAULTS, DELIMITER, PREFIX, Section, Settings
from serve.cli import app

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def pages() -> dict[str, str]:
    """Every page of the reference by file name."""
    return {"settings.md": settings_page(), "cli.md": cli_page()}


def settings_page() -> str:
    """The settings."""
    defaults = yaml.safe_load(DEFAULTS.read_text(encoding="utf-8"))
    parts = [
        "# Settings",
        "Written by `scripts/write_reference.py`. `gatherum config` shows the values in force, and where each is from.",
        "A value is taken from the first of these that has it: an option of the command, the environment "
        f"(`{PREFIX}SECTION{DELIMITER}KEY`), the plain names below, the config file (`{CONFIG_VARIABLE}`, else "
        "`gatherum.yaml` in the working directory), `config/default.yaml`. A key that does not exist, or a wrong "
        "value, stops the start with a message that names it.",
        _table(
            ("Plain name", "Setting"),
            ((f"`{name}`", f"`{section}.{key}`") for name, (section, key) in ALIASES.items()),
        ),
    ]
    plain = {name: field for name, field in Settings.model_fields.items() if not _section(field)}
    parts += ["## General", _settings(plain, defaults, "")]
    for name, field in Settings.model_fields.items():
        if section := _section(field):
            about = (section.__doc__ or "").strip()
            parts += [f"## {name}", about, _settings(section.model_fields, defaults[name], f"{name}.")]
    return "\n\n".join(parts) + "\n"


def _section(field: Any) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _settings(fields: dict[str, Any], defaults: dict[str, Any], prefix: str) -> str:
    rows = (
        (
            f"`{prefix}{key}`",
            f"`{_shown(defaults[key])}`",
            f"`{PREFIX}{(prefix + key).upper().replace('.', DELIMITER)}`",
            field.description or "",
        )
        for key, field in fields.items()
    )
    return _table(("Setting", "Default", "Environment", "What it is"), rows)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return '""' if value == "" else str(value).lower() if isinstance(value, bool) else str(value)


def cli_page() -> str:
    """The command line."""
    parts = [
        "# The command line",
        "Written by `scripts/write_reference.py`. Results go to standard output, everything else to standard error. "
        "Exit codes: 0 done; 1 it did not work, or a document failed, or something is not ready; 2 a wrong setting or "
        "argument; 130 interrupted.",
    ]
    for name, command in _commands("gatherum", typer.main.get_command(app)):
        usage = [name, *(_usage(parameter) for parameter in command.params if parameter.name != "help")]
        parts += [f"## {name}", command.help or "", "```text\n" + " ".join(filter(None, usage)) + "\n```"]
        options = [
            (f"`{', '.join(parameter.opts)}`", getattr(parameter, "help", None) or "") for parameter in command.params
        ]
        if options:
            parts.append(_table(("Argument or option", "What it is"), options))
    return "\n\n".join(parts) + "\n"


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    if command.invoke_without_command:
        yield name, command
    for child, inner in command.commands.items():
        yield from _commands(f"{name} {child}", inner)


def _usage(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return ""
    shown = parameter.metavar or parameter.name.upper()
    return str(shown) if parameter.required else f"[{shown}]"


def _table(titles: tuple[str, ...], rows: Any) -> str:
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main() -> None:
    """Write every page."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
