"""Every error Gatherum raises on purpose, as one tree that survives a process border.

    GatherumError
    ├── InvalidInput            the caller must change something
    │   ├── EmptyFile  NotAPdf  TruncatedPdf  EncryptedPdf  DocumentTooLarge
    │   ├── QuestionTooLong
    │   ├── KeyReused           an idempotency key that stands for another upload
    │   └── MalformedRequest
    ├── NotFound                the thing named does not exist (or is not yours)
    │   └── UnknownCollection  UnknownDocument  UnknownEntity  UnknownJob  UnknownLookup  UnknownPage
    │       UnknownSource
    ├── Conflict                the thing exists, or is in another state
    │   └── StaleLease          a worker lost its job to another one
    ├── DeadlineExceeded        the budget of a call is used up
    ├── Unavailable             try again: a role is restarting or not filled yet
    │   ├── Overloaded          try again later: a bound was reached
    │   └── FileGone            a deletion took the file of an upload that was being taken in
    ├── ReadingFailed           a page or a document could not be read
    ├── FetchFailed             what a URL leads to could not be had
    └── Refused                 policy says no (a write on a read-only source, a path outside its root,
                                a URL that leads inside)

The class carries its outward code and status; they are translated once, in `serve/app.py`. Messages are written for
the person who made the call: what is wrong and what to do, never an internal path or a secret.
"""

from __future__ import annotations

from typing import Any, ClassVar


class GatherumError(Exception):
    """Base of the tree.

    Attributes:
        code: stable, machine-readable name, as in the `code` field of problem details.
        http_status: status of the HTTP answer.
        retryable: whether the same call may succeed if repeated unchanged.
        detail: one or two sentences for the caller.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.detail,))


class InvalidInput(GatherumError):
    """The input does not make sense; nothing was stored."""

    code = "invalid_input"
    http_status = 422


class EmptyFile(InvalidInput):
    """A file of zero bytes."""

    code = "empty_file"


class NotAPdf(InvalidInput):
    """The bytes are no PDF, whatever the name says."""

    code = "not_a_pdf"
    http_status = 415


class TruncatedPdf(InvalidInput):
    """The PDF ends before its end: an interrupted download or copy."""

    code = "truncated_pdf"


class EncryptedPdf(InvalidInput):
    """The PDF cannot be opened without a password."""

    code = "encrypted_pdf"


class DocumentTooLarge(InvalidInput):
    """A file, a page count or a request body over its limit."""

    code = "too_large"
    http_status = 413


class QuestionTooLong(InvalidInput):
    """A question or query longer than the configured limit."""

    code = "question_too_long"


class KeyReused(InvalidInput):
    """The idempotency key was used for another request."""

    code = "idempotency_key_reused"


class MalformedRequest(InvalidInput):
    """The body is not what its content type promises."""

    code = "malformed_request"
    http_status = 400


class NotFound(GatherumError):
    """The thing named does not exist."""

    code = "not_found"
    http_status = 404


class UnknownCollection(NotFound):
    """No collection of that name."""

    code = "unknown_collection"


class UnknownDocument(NotFound):
    """No document of that id."""

    code = "unknown_document"


class UnknownPage(NotFound):
    """The document has no page of that number."""

    code = "unknown_page"


class UnknownJob(NotFound):
    """No job of that id."""

    code = "unknown_job"


class UnknownSource(NotFound):
    """No SQL source of that name."""

    code = "unknown_source"


class UnknownLookup(NotFound):
    """The SQL source has no lookup of that name."""

    code = "unknown_lookup"


class UnknownEntity(NotFound):
    """No entity of that id."""

    code = "unknown_entity"


class Conflict(GatherumError):
    """The thing exists already, or is in a state that forbids the call."""

    code = "conflict"
    http_status = 409


class StaleLease(Conflict):
    """The fence has moved on: another worker holds the job now."""

    code = "stale_lease"


class DeadlineExceeded(GatherumError):
    """The call's budget was used up before it finished."""

    code = "deadline_exceeded"
    http_status = 504


class Unavailable(GatherumError):
    """A role is restarting or not filled yet; the same call may succeed soon."""

    code = "unavailable"
    http_status = 503
    retryable = True


class Overloaded(Unavailable):
    """A bound was reached; come back later."""

    code = "overloaded"
    http_status = 429


class FileGone(Unavailable):
    """The bytes of an upload are not in the blob store (any more): put them there again."""

    code = "file_gone"


class ReadingFailed(GatherumError):
    """A page or a document could not be read."""

    code = "reading_failed"
    http_status = 422


class FetchFailed(GatherumError):
    """The other server did not give the file: it is away, says no, or breaks off."""

    # Not 502: that would have clients, and proxies, repeat a call whose URL leads nowhere.
    code = "fetch_failed"
    http_status = 422


class Refused(GatherumError):
    """Policy forbids the call."""

    code = "refused"
    http_status = 403
