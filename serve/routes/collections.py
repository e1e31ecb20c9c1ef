"""Collections."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter

from serve import deletion
from serve.problems import documented
from serve.schemas import CollectionBody, NamesView, RemovedCollectionView
from serve.services import Use, call_deadline

router = APIRouter(prefix="/v1/collections", tags=["collections"])


@router.get("", responses=documented(503))
async def list_collections(services: Use) -> NamesView:
    """List the collections."""
    return NamesView(items=await services.roles.database.collections(deadline=call_deadline()), next=None)


@router.post("", status_code=201, responses=documented(400, 422, 503))
async def create_collection(body: CollectionBody, services: Use) -> CollectionBody:
    """Create a collection; one that is there already is left as it is."""
    await services.roles.database.create_collection(body.name, deadline=call_deadline())
    return body


@router.delete("/{name}", responses=documented(404, 409, 503, 504))
async def delete_collection(name: str, services: Use) -> RemovedCollectionView:
    """Delete a collection and all its documents from every store, however long it takes. Broken off, repeat it."""
    deleted = await deletion.delete_collection(services.roles, name)
    return RemovedCollectionView(collection=name, **asdict(deleted.removed), indexes=deleted.indexes)
