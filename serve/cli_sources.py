"""`gatherum sources` and `gatherum lookups`: SQL databases, and the SELECTs that questions are answered by."""

from __future__ import annotations

import json
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from serve.terminal import Json, Url, fail, print_both, with_client

sources_app = typer.Typer(help="Register, look at, query and remove SQL databases.", no_args_is_help=True)
lookups_app = typer.Typer(help="Store and run SELECTs that questions are answered by.", no_args_is_help=True)

SourceName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the source.")]
Params = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="A parameter's value; may be repeated.")
]


class SourceKind(StrEnum):
    """Kinds of databases."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"
    MYSQL = "mysql"


class Tls(StrEnum):
    """What is asked of a connection."""

    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY = "verify"


@sources_app.command("add")
def sources_add(
    name: Annotated[str, typer.Argument(help="Name to call it by.")],
    path: Annotated[str, typer.Argument(help="SQLite file, relative to the server's sources.sqlite_root.")] = "",
    kind: Annotated[SourceKind, typer.Option(help="Kind of database; MariaDB is mysql.")] = SourceKind.SQLITE,
    host: Annotated[str, typer.Option(help="Name or address of the server.")] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0 for the usual one.")] = 0,
    database: Annotated[str, typer.Option(help="Name of the database.")] = "",
    user: Annotated[str, typer.Option(help="Name of a role that can read and no more.")] = "",
    password_env: Annotated[
        str, typer.Option(help="Environment variable, where Gatherum runs, that holds the password.")
    ] = "",
    ask_password: Annotated[bool, typer.Option("--ask-password", help="Ask for the password, to be stored.")] = False,
    tls: Annotated[
        Tls, typer.Option(help="Whether connections need TLS, or a certificate for the host too.")
    ] = Tls.PREFER,
    samples: Annotated[bool, typer.Option("--samples", help="Show some values with the tables.")] = False,
    exclude: Annotated[
        list[str] | None, typer.Option(help="table.column to leave out of names and evidence, * for any; repeatable.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Register a database, to be read and never written."""
    fields: dict[str, Any] = {"path": path, "host": host, "port": port, "database": database, "user": user}
    fields |= {"password_env": password_env, "samples": samples, "exclude": exclude}
    fields |= {"password": typer.prompt("Password", hide_input=True, err=True)} if ask_password else {}
    fields |= {"tls": tls.value} if kind is not SourceKind.SQLITE else {}
    given = {key: value for key, value in fields.items() if value}
    added = with_client(url, lambda client: client.add_source(name, kind=kind.value, **given))
    print_both(
        added, as_json, f"Source {name} is registered. `gatherum sources test {name}` looks at its user's rights."
    )


@sources_app.command("test")
def sources_test(name: SourceName, url: Url = None, as_json: Json = False) -> None:
    """Look at a database: its version, how fast it answers, and whether its user could write."""
    from serve import render

    found = with_client(url, lambda client: client.test_source(name))
    print_both(found, as_json, lambda: render.tested(found))


@sources_app.command("schema")
def sources_schema(
    name: SourceName,
    refresh: Annotated[bool, typer.Option("--refresh", help="Look now, and not at what is remembered.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the tables of a database."""
    from serve import render

    found = with_client(url, lambda client: client.source_schema(name, refresh=refresh))
    print_both(found, as_json, lambda: render.schema(found))


@sources_app.command("query")
def sources_query(
    name: SourceName,
    sql: Annotated[str, typer.Argument(help="A single SELECT, in quotes; parameters as :name.")],
    param: Params = None,
    limit: Annotated[int | None, typer.Option(min=0, help="Most rows; 1000 by default.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Do not run it; say how it would be.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Run a SELECT."""
    from serve import render

    params: dict[str, Any] = {}
    for each in param or ():
        key, equals, value = each.partition("=")
        if not equals:
            fail(f"{each!r} is not NAME=VALUE.", 2)
        params[key] = value_of(value)
    if explain:
        plan = with_client(url, lambda client: client.explain(name, sql, params))
        print_both(plan, as_json, lambda: render.plan(plan))
        return
    found = with_client(url, lambda client: client.query(name, sql, params, limit=limit))
    print_both(found, as_json, lambda: render.query(found))


@sources_app.command("list")
def sources_list(url: Url = None, as_json: Json = False) -> None:
    """List the registered databases."""
    from serve import render

    items = with_client(url, lambda client: client.sources())
    print_both(items, as_json, lambda: render.sources(items))


@sources_app.command("remove")
def sources_remove(
    name: Annotated[str, typer.Argument(help="Name of the source.")], url: Url = None, as_json: Json = False
) -> None:
    """Forget a database. Its file is not touched."""
    with_client(url, lambda client: client.remove_source(name))
    print_both({"removed": name}, as_json, f"Source {name} is removed.")


@sources_app.command("refresh")
def sources_refresh(
    name: Annotated[str, typer.Argument(help="Name of the source.")], url: Url = None, as_json: Json = False
) -> None:
    """Read the names in a database again, now."""
    with_client(url, lambda client: client.refresh_source(name))
    print_both({"refreshed": name}, as_json, f"The names in {name} are being read again.")


@lookups_app.command("list")
def lookups_list(
    source: Annotated[str, typer.Argument(help="Name of the source.")], url: Url = None, as_json: Json = False
) -> None:
    """List the lookups of a source."""
    from serve import render

    items = with_client(url, lambda client: client.lookups(source))
    print_both(items, as_json, lambda: render.lookups(items))


@lookups_app.command("add")
def lookups_add(
    source: Annotated[str, typer.Argument(help="Name of the source.")],
    file: Annotated[Path, typer.Argument(help="TOML file with name, description, sql and parameters.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Store a lookup; docs/lookups.md shows what the file holds."""
    try:
        lookup = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}.", 2)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        fail(f"{file} is no TOML: {error}.", 2)
    stored = with_client(url, lambda client: client.add_lookup(source, lookup))
    print_both(stored, as_json, f"Lookup {stored['name']} is stored.")


@lookups_app.command("run")
def lookups_run(
    source: Annotated[str, typer.Argument(help="Name of the source.")],
    name: Annotated[str, typer.Argument(help="Name of the lookup.")],
    argument: Annotated[list[str] | None, typer.Argument(help="A value for a parameter, as name=value.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most rows.")] = 100,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Run a lookup."""
    from serve import render

    arguments = dict(each.partition("=")[::2] for each in argument or ())
    found = with_client(url, lambda client: client.run_lookup(source, name, arguments, limit=limit))
    print_both(found, as_json, lambda: render.rows(found["rows"]))


@lookups_app.command("remove")
def lookups_remove(
    source: Annotated[str, typer.Argument(help="Name of the source.")],
    name: Annotated[str, typer.Argument(help="Name of the lookup.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Forget a lookup."""
    with_client(url, lambda client: client.remove_lookup(source, name))
    print_both({"removed": name}, as_json, f"Lookup {name} is removed.")


def value_of(text: str) -> Any:
    """A number, a truth value or null, if the text is one in JSON; else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, str | list | dict) else value
