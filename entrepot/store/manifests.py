"""Manifests and indexes: the bytes as they came, and a view of what they refer to.

The bytes are never written anew: a digest that we serve is the digest that was asked. The view follows the OCI image specification 1.1 and Docker's
image manifest version 2, schema 2.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Self

import msgspec

from entrepot.errors import DigestInvalid
from entrepot.reference import Digest, is_of_other_algorithm
from entrepot.words import printable

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

PLATFORM_PART = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What the operating system, the architecture and the variant of a platform may be. Whoever writes a manifest chooses them: a platform with another part is
dropped where the manifest is read (S03), so that no log, no terminal and no shell sees it."""

UNTYPED = "application/octet-stream"
"""The media type of what has none, or something else in its place."""

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
IMAGE_MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})

LAYERS_LIMIT = 1_000
"""The most layers of a manifest that is taken from a source: docker makes at most 127, and each layer of a pull is a request and an open file."""

REFERENCES_LIMIT = 10_000
"""The most manifests of an index that is taken from a source. With a platform and annotations one takes about 400 bytes, so 4 MiB hold no more than these."""

LARGEST_SIZE = 2**53
"""The largest size of a descriptor in bytes: what every JSON reader holds exactly (RFC 8259, section 6), and the catalog can store."""

PARSED_IN_THREAD = 128 * 1024
"""Bytes from which a manifest is parsed in a thread: one of 4 MiB takes a tenth of a second, in which nobody else would be served."""


class ReferenceKind(StrEnum):
    """What a manifest refers to."""

    MANIFEST = "manifest"
    CONFIG = "config"
    LAYER = "layer"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Something that a manifest refers to. *size* is in bytes."""

    digest: Digest
    kind: ReferenceKind
    media_type: str
    size: int
    platform: str | None = None
    """``linux/arm64/v8``, for the manifests of an index."""
    optional: bool = False
    """A layer that is to be had elsewhere (``urls``, or a media type that may not be distributed): kept when somebody asks for it, not part of a pull."""


class ManifestUnreadable(ValueError):
    """The bytes are not a manifest or index that we know."""


class _Platform(msgspec.Struct):
    """Each part may be null, which Go reads as empty."""

    os: str | None = ""
    architecture: str | None = ""
    variant: str | None = ""


class _Descriptor(msgspec.Struct):
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    media_type: str = msgspec.field(name="mediaType", default=UNTYPED)
    platform: _Platform | None = None
    urls: list[str] | None = None


class _Document(msgspec.Struct):
    schema_version: int = msgspec.field(name="schemaVersion", default=2)
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None


class _AnnotatedDescriptor(msgspec.Struct):
    digest: str
    annotations: dict[str, str] | None = None


class _Annotated(msgspec.Struct):
    manifests: list[_AnnotatedDescriptor] | None = None


_decoder = msgspec.json.Decoder(_Document)

_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for JSON that is none, or that is nested deeper than Python's stack."""


@dataclass(frozen=True)
class Manifest:
    """A manifest or index: its bytes, media type and digest."""

    content: bytes
    media_type: str
    digest: Digest
    references: tuple[Descriptor, ...]

    @classmethod
    def of(cls, content: bytes, media_type: str, digest: Digest) -> Self:
        """Read a view of *content*, which may be one that was stored by an earlier version; raises `ManifestUnreadable`."""
        return cls(content, media_type, digest, tuple(_references(content)))

    @property
    def is_index(self) -> bool:
        """Whether it lists manifests, one for each platform, and not layers."""
        return self.media_type in INDEXES or (bool(self.children) and not self.blobs)

    @cached_property
    def children(self) -> tuple[Descriptor, ...]:
        """The manifests of an index."""
        return tuple(each for each in self.references if each.kind is ReferenceKind.MANIFEST)

    @cached_property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The config and the layers, each digest once."""
        return tuple({each.digest: each for each in self.references if each.kind is not ReferenceKind.MANIFEST}.values())

    def child_for(self, platform: str) -> Descriptor | None:
        """The manifest of an index for a platform; ``linux/arm64`` also finds ``linux/arm64/v8``."""
        for each in self.children:
            if each.platform == platform:
                return each
        return next((each for each in self.children if each.platform and each.platform.startswith(f"{platform}/")), None)


async def parse_manifest(content: bytes, media_type: str, digest: Digest) -> Manifest:
    """Read a manifest that comes from a source, without holding up the event loop.

    Raises `ManifestUnreadable`, also for more layers, references or bytes of a descriptor than are
    taken from a source: `LAYERS_LIMIT`, `REFERENCES_LIMIT`, `LARGEST_SIZE`.
    """
    if len(content) < PARSED_IN_THREAD:
        return _bounded(content, media_type, digest)
    return await asyncio.to_thread(_bounded, content, media_type, digest)


def _bounded(content: bytes, media_type: str, digest: Digest) -> Manifest:
    manifest = Manifest.of(content, media_type, digest)
    indexed = len(manifest.children)
    layers = sum(each.kind is ReferenceKind.LAYER for each in manifest.references)
    for count, limit, kind in (
        (indexed, REFERENCES_LIMIT, "manifests"),
        (layers, LAYERS_LIMIT, "layers"),
    ):
        if count > limit:
            raise ManifestUnreadable(f"it lists {count:,} {kind}, and at most {limit:,} are taken")
    largest = max((each.size for each in manifest.references), default=0)
    if largest > LARGEST_SIZE:
        raise ManifestUnreadable(f"it has a descriptor of {largest:,} bytes")
    return manifest


def attestations(content: bytes) -> dict[str, str]:
    """The attestations of an index, each with the image that it is about, by digest; empty where the annotation names no digest.

    BuildKit marks them with annotations ("Attestation storage").
    """
    try:
        listed = msgspec.json.decode(content, type=_Annotated).manifests or ()
    except _UNDECODABLE:
        return {}
    return {
        each.digest: _digest_or_nothing(annotations.get("vnd.docker.reference.digest", ""))
        for each in listed
        if (annotations := each.annotations or {}).get("vnd.docker.reference.type") == "attestation-manifest"
    }


def _digest_or_nothing(text: str) -> str:
    try:
        return str(Digest.parse(text))
    except DigestInvalid:
        return ""


def config_platform(content: bytes) -> str | None:
    """The platform that an image's config names; None when it names none (other artifacts than images)."""
    try:
        return _platform(msgspec.json.decode(content, type=_Platform))
    except _UNDECODABLE:
        return None


def _references(content: bytes) -> list[Descriptor]:
    try:
        document = _decoder.decode(content)
        if document.schema_version != 2:
            raise ManifestUnreadable(f"schema version {document.schema_version} is not supported")
        # The images of an index that have a digest of the usual kind can be pulled, whatever else it lists.
        found = [_descriptor(each, ReferenceKind.MANIFEST) for each in document.manifests or () if not is_of_other_algorithm(each.digest)]
        if document.config is not None:
            found.append(_descriptor(document.config, ReferenceKind.CONFIG))
        found.extend(_descriptor(each, ReferenceKind.LAYER) for each in document.layers or ())
    except (*_UNDECODABLE, DigestInvalid) as error:
        raise ManifestUnreadable(printable(str(error), 200)) from error
    return found


def _descriptor(each: _Descriptor, kind: ReferenceKind) -> Descriptor:
    optional = bool(each.urls) or "nondistributable" in each.media_type or "foreign" in each.media_type
    return Descriptor(
        digest=Digest.parse(each.digest),
        kind=kind,
        media_type=each.media_type if _is_media_type(each.media_type) else UNTYPED,
        size=each.size,
        platform=_platform(each.platform) if each.platform else None,
        optional=optional,
    )


def _is_media_type(text: str) -> bool:
    """Whether *text* may be shown and sent as a media type: RFC 6838 has less, and clients take more."""
    return len(text) <= 255 and text.isascii() and text.isprintable() and " " not in text and "/" in text


def _platform(platform: _Platform) -> str | None:
    """``os/architecture[/variant]``; None for one that names no such parts, or parts beyond `PLATFORM_PART`."""
    parts = [part for part in (platform.os, platform.architecture, platform.variant) if part]
    # Attestations of BuildKit stand in an index as "unknown/unknown": they are no platform that anyone runs.
    if len(parts) < 2 or parts[0] == "unknown" or not all(map(PLATFORM_PART.fullmatch, parts)):
        return None
    return "/".join(parts)
