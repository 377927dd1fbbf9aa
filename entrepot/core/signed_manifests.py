"""Signed manifests of Docker's schema 1: their payload, which their digest is of.

The signatures stand within the document ("pretty JWS", github.com/docker/libtrust). Each says how
many bytes of the document the payload begins with, and how the payload ends; what stands between is
the signatures. Registries and clients take the digest of the payload (docs.docker.com, "Image
Manifest Version 2, Schema 1").
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec

from entrepot.core.reference import Digest

SIGNED_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
UNSIGNED_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v1+json"

SCHEMA_1: Final = frozenset({SIGNED_MANIFEST, UNSIGNED_MANIFEST})
"""The media types of Docker's schema 1."""

TAIL_LENGTH: Final = 1_000
"""Bytes that the end of a payload may have; it is a line feed and a brace."""


class _Signature(msgspec.Struct):
    protected: str


class _Signed(msgspec.Struct):
    signatures: list[_Signature]


class _Protected(msgspec.Struct, rename="camel"):
    format_length: int
    format_tail: str


def payload_of(content: bytes, media_type: str | None) -> bytes:
    """The bytes that the digest of a manifest is of; for all but a signed one, *content* itself.

    Also where *content* is not what its payload and signatures make up: then it has no digest that
    a client would accept but its own.
    """
    if media_type != SIGNED_MANIFEST:
        return content
    try:
        payloads = {
            _payload(content, signature.protected)
            for signature in msgspec.json.decode(content, type=_Signed).signatures
        }
        [payload] = payloads
        document = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        signed = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, ValueError, RecursionError, binascii.Error):
        return content
    # Nothing but the signatures may stand in the document beside what is signed: a reader of the
    # document must not see another image than a reader of the payload.
    document.pop("signatures", None)
    same = {name: bytes(value) for name, value in document.items()} == {
        name: bytes(value) for name, value in signed.items()
    }
    return payload if same else content


def matches(digest: Digest, content: bytes, media_type: str | None) -> bool:
    """Whether a digest is that of a manifest of a media type."""
    return digest.matches(payload_of(content, media_type))


def digest_of(content: bytes, media_type: str | None) -> Digest:
    """The digest of a manifest of a media type."""
    return Digest.of(payload_of(content, media_type))


def _payload(content: bytes, protected: str) -> bytes:
    header = msgspec.json.decode(_decoded(protected), type=_Protected)
    tail = _decoded(header.format_tail)
    if not 0 < header.format_length < len(content) or len(tail) > TAIL_LENGTH:
        raise ValueError("the payload is longer than the document")
    return content[: header.format_length] + tail


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
