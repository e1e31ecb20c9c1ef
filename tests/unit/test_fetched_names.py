"""What a fetched file is called, whatever the other server says of it."""

from __future__ import annotations

import httpx
import pytest

from serve.fetch import _filename


@pytest.mark.parametrize(
    "coded", ["undefined''x", "idna''%ff", "a%00b''x", "unicode_escape''%5cud800", "undefined''%ff%00"]
)
def test_a_name_that_cannot_be_decoded_gives_way_to_the_urls(coded: str) -> None:
    response = httpx.Response(200, headers={"content-disposition": f"attachment; filename*={coded}"})
    name = _filename(response, httpx.URL("http://example.org/moons.pdf"))
    assert name in {"moons.pdf", "document.pdf"}
