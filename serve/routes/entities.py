"""Entities: the names that the documents mention, where they do, and which stand together."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from actors.store.entities import Wanted
from serve.problems import documented
from serve.schemas import EntitiesView, EntityDetailView, MentionsView, RelatedView
from serve.services import Use, call_deadline

router = APIRouter(prefix="/v1/entities", tags=["entities"])

MAX_ID = 2**63 - 1
"""What the store's ids end at; a larger number is none, and no database is asked for it."""

EntityId = Annotated[int, Path(ge=1, le=MAX_ID)]
After = Annotated[str | None, Query(max_length=2000, description="`next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Collection = Annotated[str | None, Query(max_length=100, description="Mentioned in this collection only.")]


@router.get("", responses=documented(404, 422, 503))
async def list_entities(
    services: Use,
    q: Annotated[str, Query(max_length=200, description="The beginning of a word of the name; all by default.")] = "",
    label: Annotated[str | None, Query(max_length=20, description="Of this type only, such as `PERSON`.")] = None,
    collection: Collection = None,
    after: After = None,
    limit: Limit = 100,
) -> EntitiesView:
    """Look names up. Those that begin with `q` come first; case and punctuation do not matter."""
    wanted = Wanted(q.strip(), label, collection)
    found, following = await services.roles.database.entities(wanted, after, limit, deadline=call_deadline())
    return EntitiesView.model_validate(_page(found, following))


@router.get("/{entity_id}", responses=documented(404, 422, 503))
async def get_entity(entity_id: EntityId, services: Use) -> EntityDetailView:
    """Show a name, and how it is spelled."""
    found = await services.roles.database.entity(entity_id, deadline=call_deadline())
    return EntityDetailView.model_validate(asdict(found))


@router.get("/{entity_id}/mentions", responses=documented(404, 422, 503))
async def list_mentions(
    entity_id: EntityId, services: Use, collection: Collection = None, after: After = None, limit: Limit = 100
) -> MentionsView:
    """Where a name is mentioned: document, page, span in its text, and boxes on it."""
    found, following = await services.roles.database.entity_mentions(
        entity_id, collection, after, limit, deadline=call_deadline()
    )
    return MentionsView.model_validate(_page(found, following))


@router.get("/{entity_id}/related", responses=documented(404, 422, 503))
async def list_related(entity_id: EntityId, services: Use, after: After = None, limit: Limit = 100) -> RelatedView:
    """The names that stand on the same pages, those that share most pages first."""
    found, following = await services.roles.database.related_entities(entity_id, after, limit, deadline=call_deadline())
    return RelatedView.model_validate(_page(found, following))


def _page(items: list[Any], following: str | None) -> dict[str, Any]:
    return {"items": [asdict(item) for item in items], "next": following}
