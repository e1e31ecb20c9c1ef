"""Passwords of sources: named by an environment variable, or kept in the store in a form only this system can read.

They are encrypted with AES-SIV under a key that lies in the data directory and not in the store, so a copy of the store
gives none away. A password is bound to the place it is for: whoever can change rows cannot have it sent elsewhere. The
same password for the same place has the same form, so registering a source twice is no conflict.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from actors.errors import Refused, Unavailable
from actors.messages import Source


class Vault:
    """Seals and opens passwords. Its calls may read or write the key file, so they block.

    Args:
        path: of the key; made, with mode 0600, when the first password is sealed.
        variables: patterns of the environment variables that may be named.
        environ: the environment.
    """

    def __init__(self, path: Path, *, variables: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._variables = tuple(variables)
        self._environ = os.environ if environ is None else environ
        self._key = b""

    def seal(self, source: Source, password: str) -> str:
        """The form in which the password of a source is stored."""
        sealed = AESSIV(self._load(make=True)).encrypt(password.encode(), _place(source))
        return base64.b64encode(sealed).decode("ascii")

    def open(self, source: Source) -> str:
        """The password of a source; empty if it has none.

        Raises:
            Refused: its variable may not be named, or is not set.
            Unavailable: the key is not here, or another one.
        """
        if source.password_env:
            name = source.password_env
            if name.startswith("GATHERUM_") or not any(fnmatchcase(name, pattern) for pattern in self._variables):
                raise Refused(
                    f"The environment variable {name!r} may not be named: sources.password_variables allows "
                    + ", ".join(self._variables)
                    + "."
                )
            if name not in self._environ:
                raise Refused(f"The environment variable {name!r} is not set where Gatherum runs.")
            return self._environ[name]
        if not source.secret:
            return ""
        try:
            return AESSIV(self._load()).decrypt(base64.b64decode(source.secret), _place(source)).decode()
        except (InvalidTag, ValueError):
            raise Unavailable(
                f"The password of the source {source.name!r} was stored with another key. Remove the source and "
                "register it again."
            ) from None

    def _load(self, *, make: bool = False) -> bytes:
        if self._key:
            return self._key
        try:
            if make and not self._path.exists():
                self._make()
            key = self._path.read_bytes()
        except OSError:
            raise Unavailable(
                f"The key of stored passwords, {self._path.name} in the data directory, cannot be read. Passwords from "
                "the environment (password_env) need none."
            ) from None
        if len(key) != 64:
            raise Unavailable(f"The key of stored passwords, {self._path.name} in the data directory, is damaged.")
        self._key = key
        return key

    def _make(self) -> None:
        """Write a key, unless somebody else was faster; nobody ever sees half of one."""
        draft = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(AESSIV.generate_key(512))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, self._path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()


def _place(source: Source) -> list[bytes]:
    """What a password is bound to."""
    parts = (source.name, source.kind, source.host, str(source.port), source.user, source.tls)
    return ["\0".join(parts).encode()]
