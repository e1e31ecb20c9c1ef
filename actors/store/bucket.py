"""Bucket: files in an object store that speaks S3, reached through fsspec.

An object appears whole or not at all, and a put that was answered lasts, so there is nothing to rename here. Pages are
read from copies in the node's cache. Credentials come from the environment of the process (or the machine's own role),
as for every program that speaks S3; page tasks give that environment up before they open a file, and need none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from actors.errors import GatherumError, InvalidInput, ReadingFailed, Unavailable
from actors.store.blobs import ADDRESS, LOST, Blobs, Stored
from actors.store.cache import Cache
from config import logs

T = TypeVar("T")

MB: Final = 1_000_000
CONNECT_S: Final = 5
READ_S: Final = 30


class Bucket(Blobs):
    """Files in a bucket.

    Args:
        root: bucket and prefix, `bucket/some/prefix`.
        endpoint: URL of the service; empty for what the environment says, else Amazon's.
        incoming: local folder for uploads on their way.
        cache: local folder for copies.
        cache_mb: bound of the copies, MB.
    """

    def __init__(self, root: str, *, endpoint: str, incoming: Path, cache: Path, cache_mb: int) -> None:
        self._root = root
        self._endpoint = endpoint
        self.incoming = incoming
        self._cache_dir, self._cache_mb = cache, cache_mb
        self._cache = Cache(cache, cache_mb * MB)
        self._opening = threading.Lock()
        self._opened: Any = None

    def __reduce__(self) -> tuple[Callable[[str], Bucket], tuple[str]]:
        rebuild = partial(
            Bucket,
            endpoint=self._endpoint,
            incoming=self.incoming,
            cache=self._cache_dir,
            cache_mb=self._cache_mb,
        )
        return rebuild, (self._root,)

    async def prepare(self) -> None:
        """See `Blobs`."""
        await asyncio.to_thread(self.incoming.mkdir, parents=True, exist_ok=True)
        if not await self._call(lambda files: files.exists(self._root.partition("/")[0])):
            raise InvalidInput(f"There is no bucket {self._root.partition('/')[0]!r}, or it may not be looked into.")

    async def stat(self, sha256: str) -> Stored | None:
        """See `Blobs`."""

        def look(files: Any) -> Stored | None:
            try:
                return _stored(files.info(self._key(sha256)))
            except FileNotFoundError:
                return None

        return await self._call(look)

    async def remove(self, sha256: str) -> bool:
        """See `Blobs`."""
        there = await self.stat(sha256) is not None
        if there:
            await self._call(lambda files: files.rm_file(self._key(sha256)))
        return there

    async def listing(self, prefix: str) -> list[Stored]:
        """See `Blobs`."""

        def look(files: Any) -> list[Stored]:
            found = files.find(f"{self._root}/{prefix}", detail=True).values()
            return sorted((_stored(info) for info in found), key=lambda stored: stored.sha256)

        return [stored for stored in await self._call(look) if ADDRESS.fullmatch(stored.sha256)]

    @contextlib.asynccontextmanager
    async def local(self, sha256: str) -> AsyncIterator[Path]:
        """See `Blobs`."""
        async with self._cache.lease(sha256, partial(self._fetch, sha256)) as path:
            yield path

    async def hash(self, sha256: str) -> str:
        """See `Blobs`."""

        def look(files: Any) -> str:
            digest = hashlib.sha256()
            try:
                with files.open(self._key(sha256), "rb", cache_type="none", block_size=8 * MB) as file:
                    while piece := file.read(8 * MB):
                        digest.update(piece)
            except FileNotFoundError:
                raise ReadingFailed(LOST) from None
            return digest.hexdigest()

        # Not of the copy in the cache, which is whole even where the object no longer is.
        return await self._call(look)

    def keep(self, path: Path, sha256: str) -> None:
        """See `Blobs`."""
        self._blocking(lambda files: files.put_file(str(path), self._key(sha256)))

    def _fetch(self, sha256: str, path: Path) -> None:
        try:
            self._blocking(lambda files: files.get_file(self._key(sha256), str(path)))
        except FileNotFoundError:
            raise ReadingFailed(LOST) from None
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise ReadingFailed("The file of the document is damaged in the blob store. Upload it again.")

    def _key(self, sha256: str) -> str:
        return f"{self._root}/{sha256[:2]}/{sha256}"

    async def _call(self, work: Callable[[Any], T]) -> T:
        return await asyncio.to_thread(self._blocking, work)

    def _blocking(self, work: Callable[[Any], T]) -> T:
        """Do something with the bucket. `FileNotFoundError` passes through, all else is translated."""
        try:
            return work(self._files())
        except (GatherumError, FileNotFoundError):
            raise
        except PermissionError as error:
            logs.get().error("bucket_refuses", error=str(error))
            raise Unavailable("The bucket of the blob store refuses the credentials of this process.") from error
        except Exception as error:
            logs.get().error("bucket_fails", kind=type(error).__name__, error=str(error))
            raise Unavailable("The bucket of the blob store cannot be reached. Try again.") from error

    def _files(self) -> Any:
        with self._opening:
            if self._opened is None:
                # Imported here: it takes half a second, and 60 MB of a process that keeps files.
                try:
                    from s3fs import S3FileSystem
                except ImportError:
                    raise InvalidInput("Files in a bucket need the extra `s3`: pip install 'gatherum[s3]'.") from None
                self._opened = S3FileSystem(
                    endpoint_url=self._endpoint or None,
                    config_kwargs={
                        "connect_timeout": CONNECT_S,
                        "read_timeout": READ_S,
                        # s3fs repeats a request five times, within 2 s; botocore would multiply that.
                        "retries": {"total_max_attempts": 1},
                    },
                    # What others have put there or taken away meanwhile must be seen.
                    use_listings_cache=False,
                    skip_instance_cache=True,
                )
            return self._opened


def _stored(info: dict[str, Any]) -> Stored:
    return Stored(info["name"].rpartition("/")[2], info["size"], info["LastModified"].timestamp())
