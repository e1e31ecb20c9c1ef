"""Serving: which encoder questions are encoded by, while the configured one may not have embedded everything yet."""

from __future__ import annotations

import contextlib

from actors.errors import Unavailable
from actors.messages import Fitted
from actors.search import models, remote
from actors.search.queries import QueryEncoder
from config.settings import EgressSettings, EncoderSettings, RetrievalSettings


def opened(
    configured: EncoderSettings, serving: Fitted | None, settings: RetrievalSettings, egress: EgressSettings | None
) -> tuple[QueryEncoder | None, str]:
    """What encodes queries. Takes time: call it in a thread.

    Args:
        configured: the encoder that is wanted.
        serving: whose vectors there are of all chunks, as the store keeps it; None before there are any.
        settings: of the retrieval role.
        egress: what the address of an endpoint must be allowed by.

    Returns:
        None where it goes by words alone, and why it does though it should not.
    """
    if configured.kind == "none":
        return None, ""
    try:
        wanted = _chosen(configured, serving)
        threads, timeout_s = settings.encoder_threads, wanted.question_timeout_s
        encoder = remote.opened(wanted, egress, threads=threads, timeout_s=timeout_s)
    except Unavailable as error:
        return None, error.detail
    if serving is not None and encoder.identity != serving.version:
        why = f"The encoder {serving.version}, which made the vectors, is no longer there, but {encoder.identity}."
        return None, why
    queue, share = settings.exact_queue, settings.exact_share
    return QueryEncoder(encoder, choice=settings.encoder, exact_queue=queue, exact_share=share), ""


def _chosen(configured: EncoderSettings, serving: Fitted | None) -> EncoderSettings:
    if serving is None:
        return configured
    # One that is not what it should be cannot have made them; the one before may still be there.
    with contextlib.suppress(Unavailable):
        if models.identity(configured) == serving.version:
            return configured
    try:
        before = EncoderSettings.model_validate_json(serving.content)
    except ValueError:
        raise Unavailable("The settings of the encoder that made the vectors cannot be read.") from None
    # A file that is refused now, such as for its hash, must not come in by what was asked of it before.
    same = configured.kind == "folder" and (before.kind, before.path) == (configured.kind, configured.path)
    return configured if same else before
