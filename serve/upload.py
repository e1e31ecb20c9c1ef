"""Receiving a file: multipart parsed as it arrives, straight into a temporary file of the blob store.

Frameworks parse the whole form before a route runs; a 100 MB PDF would then be written twice, or held in memory, and be
refused only at its end. Here the first byte too many stops the upload.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import PurePath
from typing import Any

import orjson
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from actors.errors import DocumentTooLarge, EmptyFile, MalformedRequest
from actors.store.blobs import Incoming

MAX_FIELD_BYTES = 100_000
MAX_HEADER_BYTES = 8_000
MAX_PARTS = 20

HOW = "Send multipart/form-data with the PDF in a part named `file`."


def plain_name(name: str) -> str:
    """A file's name without any folder: some clients send a whole path, in the style of their own system."""
    return PurePath(name.replace("\\", "/")).name[:500] or "document.pdf"


class Upload:
    """The form of an upload: the file goes to `incoming`, the small fields stay here.

    Attributes:
        filename: of the file part, without any folder.
        fields: the other parts, by name, as text.
    """

    def __init__(self, headers: Mapping[str, str], incoming: Incoming, max_bytes: int) -> None:
        """Prepare for the body that belongs to these headers.

        Raises:
            MalformedRequest: the content type is not multipart/form-data with a boundary.
        """
        content_type, options = parse_options_header(headers.get("content-type", ""))
        boundary = options.get(b"boundary")
        if content_type != b"multipart/form-data" or not boundary:
            raise MalformedRequest(f"The body is not a form with a file. {HOW}")
        self.filename = ""
        self.fields: dict[str, str] = {}
        self._incoming = incoming
        self._max_bytes = max_bytes
        self._size = 0
        self._parts = 0
        self._files = 0
        self._ended = False
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition: dict[bytes, bytes] = {}
        self._field: bytearray | None = None
        # Filled by the parser's synchronous callbacks, emptied after each piece of the body: never more than that
        # piece.
        self._pending: deque[bytes] = deque()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value_part,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_ends,
                "on_end": self._form_ends,
            },
        )

    async def receive(self, body: AsyncIterator[bytes]) -> None:
        """Read the body to its end.

        Raises:
            DocumentTooLarge: the file is over the limit; nothing more is read.
            EmptyFile: the file has no bytes.
            MalformedRequest: the form is broken, cut off, or has no file.
        """
        try:
            async for piece in body:
                self._parser.write(piece)
                while self._pending:
                    await self._incoming.write(self._pending.popleft())
                if self._ended:
                    break  # what follows the form is nobody's
        except MultipartParseError:
            raise MalformedRequest(f"The form is broken. {HOW}") from None
        if not self._ended:
            raise MalformedRequest("The form ends before its end: the upload was cut off. Send it again.")
        if not self._files:
            raise MalformedRequest(f"The form has no file. {HOW}")
        if not self._size:
            raise EmptyFile("The file is empty.")
        await self._incoming.flush()

    def metadata(self) -> dict[str, Any]:
        """The field `metadata`: a JSON object, or nothing.

        Raises:
            MalformedRequest: it is something else.
        """
        text = self.fields.get("metadata", "")
        if not text:
            return {}
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise MalformedRequest("The field `metadata` is not valid JSON.") from None
        if not isinstance(value, dict):
            raise MalformedRequest("The field `metadata` must be a JSON object.")
        return value

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise MalformedRequest(f"The form has more than {MAX_PARTS} parts.")
        self._disposition = {}
        self._field = None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]
        self._check_header()

    def _header_value_part(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._header_name) + len(self._header_value) > MAX_HEADER_BYTES:
            raise MalformedRequest("A header in the form is too long.")

    def _header_ends(self) -> None:
        if bytes(self._header_name).lower() == b"content-disposition":
            self._disposition = parse_options_header(bytes(self._header_value))[1]
        self._header_name.clear()
        self._header_value.clear()

    def _headers_finished(self) -> None:
        if self._disposition.get(b"name") == b"file":
            self._files += 1
            if self._files > 1:
                raise MalformedRequest("The form has more than one file. Send one file a request.")
            name = self._disposition.get(b"filename", b"").decode("utf-8", "replace")
            self.filename = plain_name(name)
        else:
            self._field = bytearray()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._size += end - start
            if self._size > self._max_bytes:
                raise DocumentTooLarge(
                    f"The file is larger than {self._max_bytes / 1e6:g} MB, the most that is accepted."
                )
            self._pending.append(data[start:end])
        else:
            self._field += data[start:end]
            if len(self._field) > MAX_FIELD_BYTES:
                raise MalformedRequest("A field of the form is too long.")

    def _part_ends(self) -> None:
        if self._field is not None:
            name = self._disposition.get(b"name", b"").decode("utf-8", "replace")
            self.fields[name] = self._field.decode("utf-8", "replace")

    def _form_ends(self) -> None:
        self._ended = True
