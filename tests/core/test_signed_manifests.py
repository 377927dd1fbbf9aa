"""The payload of signed manifests: what their digest is of."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from entrepot.core.reference import Digest
from entrepot.core.signed_manifests import (
    SIGNED_MANIFEST,
    UNSIGNED_MANIFEST,
    digest_of,
    matches,
    payload_of,
)

PAYLOAD = json.dumps({"schemaVersion": 1, "name": "library/old", "fsLayers": []}, indent=3).encode()


def encoded(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def signature(length: int = len(PAYLOAD) - 2, tail: bytes = b"\n}", **more: Any) -> dict[str, Any]:
    protected = {"formatLength": length, "formatTail": encoded(tail), **more}
    return {"header": {}, "signature": "x", "protected": encoded(json.dumps(protected).encode())}


def signed(*signatures: dict[str, Any], between: bytes = b"") -> bytes:
    """A payload as libtrust signs it: the signatures before the last brace."""
    block = json.dumps(list(signatures)).encode()
    return PAYLOAD[:-2] + between + b',\n   "signatures": ' + block + b"\n}"


@pytest.mark.parametrize("count", [1, 2])
def test_the_digest_of_a_signed_manifest_is_that_of_its_payload(count: int) -> None:
    content = signed(*(signature(time=str(number)) for number in range(count)))
    assert payload_of(content, SIGNED_MANIFEST) == PAYLOAD
    assert digest_of(content, SIGNED_MANIFEST) == Digest.of(PAYLOAD)
    assert matches(Digest.of(PAYLOAD), content, SIGNED_MANIFEST)
    assert not matches(Digest.of(content), content, SIGNED_MANIFEST)


@pytest.mark.parametrize("media_type", [UNSIGNED_MANIFEST, "application/json", None])
def test_of_every_other_type_the_digest_is_that_of_all_bytes(media_type: str | None) -> None:
    assert payload_of(signed(signature()), media_type) == signed(signature())


@pytest.mark.parametrize(
    "content",
    [
        signed(),
        signed(signature(), signature(tail=b"}")),
        signed(signature(length=10_000)),
        signed(signature(length=-1)),
        signed(signature(length=5)),
        signed(signature(tail=b" " * 2_000)),
        signed({"protected": "%"}),
        signed({"protected": encoded(b"[]")}),
        # What is signed must be all that a reader sees.
        signed(signature(), between=b', "layers": [1]'),
        signed(signature(), between=b', "fsLayers": [1]'),
        b"[]",
        b"no JSON",
        b'{"signatures": 1}',
    ],
    ids=range(13),
)
def test_a_document_that_its_signatures_do_not_make_up_has_its_own_digest(content: bytes) -> None:
    assert payload_of(content, SIGNED_MANIFEST) == content
