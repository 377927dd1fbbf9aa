"""Manifests and indexes: the bytes as they came, and a view of their references.

The bytes are never re-serialised: the digest served is the digest requested. The view follows the
OCI image specification 1.1 and Docker's image manifest version 2, schema 2.

A cache is no validator (F82). The fields of a descriptor besides its digest may be missing, null or
of another type: they are unknown then. An unreadable entry of an index is skipped as long as others
can be read. A config or layer without a verifiable digest makes the manifest unreadable: no client
could use the image.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any, Final, Literal, Self

import msgspec

from entrepot.core.media_types import DOCKER_LAYER, INDEXES
from entrepot.core.platforms import OS_FEATURES_LIMIT, Platform, best_match
from entrepot.core.reference import Digest, is_of_other_algorithm
from entrepot.core.signed_manifests import SCHEMA_1
from entrepot.encoding import first_json_value
from entrepot.errors import DigestInvalid
from entrepot.formatting import printable

PLATFORM_PART_LENGTH = 64

PLATFORM_PART = re.compile(rf"[A-Za-z0-9._-]{{1,{PLATFORM_PART_LENGTH}}}")
"""Accepted operating systems, architectures and variants of a platform.

The author of a manifest chooses them: a platform with another part is dropped when the manifest is
parsed (S03), so that no log, terminal or shell gets it."""

UNKNOWN_PLATFORM = Platform("unknown", "unknown")
"""The platform of BuildKit's attestations, and of a manifest that states no readable one."""

UNTYPED = "application/octet-stream"
"""The media type of a descriptor without a valid one."""

LAYERS_LIMIT = 1_000
"""Layers of a manifest accepted from a source.

docker creates at most 127, and each layer of a pull is a request and an open file."""

REFERENCES_LIMIT = 10_000
"""Manifests of an index accepted from a source.

An entry with a platform and annotations takes about 400 bytes, so 4 MiB hold no more."""

LARGEST_SIZE = 2**53
"""Largest size of a descriptor in bytes: exact in every JSON reader (RFC 8259, section 6), and
within the catalog's integers."""

ENTRIES_COMMAS = 50 * REFERENCES_LIMIT
"""Commas accepted in a list with odd entries; one with a platform and annotations has twenty."""

MANIFEST_THREAD_THRESHOLD = 128 * 1024
"""Bytes from which on a manifest is parsed in a thread.

One of 4 MiB takes a tenth of a second, which would delay other clients."""


class ReferenceKind(StrEnum):
    """The kind of a manifest's reference."""

    MANIFEST = "manifest"
    CONFIG = "config"
    LAYER = "layer"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference of a manifest.

    *size* is in bytes, None where the manifest states none.
    """

    digest: Digest
    kind: ReferenceKind
    media_type: str
    size: int | None
    platform: str | None = None
    """``linux/arm64/v8``, for the manifests of an index."""
    optional: bool = False
    """A layer that clients get elsewhere (``urls``, or a non-distributable media type).

    It is cached when a client requests it, but is not part of a pull."""
    runs_on: Platform | None = None
    """The platform with version and features, as the index states it; None where it has none."""


class ManifestUnreadable(ValueError):
    """The bytes are no manifest or index of a known format."""


class _Platform(msgspec.Struct):
    """The parts of a platform; each may be null, which Go reads as empty."""

    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    os_version: str | None = msgspec.field(name="os.version", default=None)
    os_features: list[str] | None = msgspec.field(name="os.features", default=None)


class _Descriptor(msgspec.Struct):
    # Without a default: a list of a million empty objects must not become a million descriptors.
    digest: str
    size: int | None = None
    media_type: str | None = msgspec.field(name="mediaType", default=None)
    platform: _Platform | None = None
    urls: list[str] | None = None


_NO_DESCRIPTOR = _Descriptor("")


class _Document(msgspec.Struct):
    schema_version: int | None = msgspec.field(name="schemaVersion", default=None)
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    # The layers of an artifact manifest (a release candidate of OCI 1.1, and ORAS before it).
    blobs: list[_Descriptor] | None = None


_ABSENT: Final = msgspec.Raw(b"null")


class _OddPlatform(msgspec.Struct):
    os: msgspec.Raw = _ABSENT
    architecture: msgspec.Raw = _ABSENT
    variant: msgspec.Raw = _ABSENT
    os_version: msgspec.Raw = msgspec.field(name="os.version", default=_ABSENT)
    os_features: msgspec.Raw = msgspec.field(name="os.features", default=_ABSENT)


class _OddDescriptor(msgspec.Struct):
    digest: msgspec.Raw = _ABSENT
    size: msgspec.Raw = _ABSENT
    media_type: msgspec.Raw = msgspec.field(name="mediaType", default=_ABSENT)
    platform: msgspec.Raw = _ABSENT
    urls: msgspec.Raw = _ABSENT
    annotations: msgspec.Raw = _ABSENT


class _OddDocument(msgspec.Struct):
    schema_version: msgspec.Raw = msgspec.field(name="schemaVersion", default=_ABSENT)
    config: msgspec.Raw = _ABSENT
    layers: msgspec.Raw = _ABSENT
    manifests: msgspec.Raw = _ABSENT
    blobs: msgspec.Raw = _ABSENT


_decoder = msgspec.json.Decoder(_Document)
_platform_decoder = msgspec.json.Decoder(_Platform)
_odd_decoder = msgspec.json.Decoder(_OddDocument)
_odd_descriptor_decoder = msgspec.json.Decoder(_OddDescriptor)
_odd_platform_decoder = msgspec.json.Decoder(_OddPlatform)
_entries_decoder = msgspec.json.Decoder(list[msgspec.Raw] | None)

_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for invalid JSON, and for JSON nested deeper than Python's stack."""


@dataclass(frozen=True)
class Manifest:
    """A manifest or index: its bytes, media type and digest."""

    content: bytes
    media_type: str
    digest: Digest
    references: tuple[Descriptor, ...]

    @classmethod
    def of(cls, content: bytes, media_type: str, digest: Digest) -> Self:
        """Parse *content*, which may have been stored by an earlier version.

        Raises `ManifestUnreadable`.
        """
        references = _layers_of_schema_1 if media_type in SCHEMA_1 else _references
        return cls(content, media_type, digest, tuple(references(content)))

    @property
    def is_index(self) -> bool:
        """Whether it lists manifests of several platforms, and no layers."""
        return self.media_type in INDEXES or (bool(self.children) and not self.blobs)

    @cached_property
    def children(self) -> tuple[Descriptor, ...]:
        """The manifests of an index."""
        return tuple(
            reference for reference in self.references if reference.kind is ReferenceKind.MANIFEST
        )

    @cached_property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The config and the layers, each digest once."""
        return tuple(
            {
                reference.digest: reference
                for reference in self.references
                if reference.kind is not ReferenceKind.MANIFEST
            }.values()
        )

    def child_for(self, platform: str | Platform) -> Descriptor | None:
        """The manifest of an index that runs best on a platform (F74).

        Where the only image of an index states no platform, that image is returned, as in
        containerd: its config has the platform. Raises `PlatformInvalid` for a text that is no
        platform.
        """
        requested = platform if isinstance(platform, Platform) else Platform.parse(platform)
        best = best_match(requested, self.children, lambda child: child.runs_on)
        if best is not None:
            return best
        only = self.children[0] if len(self.children) == 1 else None
        return only if only is not None and only.runs_on is None else None


async def parse_manifest(content: bytes, media_type: str, digest: Digest) -> Manifest:
    """Parse a manifest that a source sent, without blocking the event loop.

    Raises `ManifestUnreadable`, also beyond `LAYERS_LIMIT`, `REFERENCES_LIMIT` and `LARGEST_SIZE`.
    """
    if len(content) < MANIFEST_THREAD_THRESHOLD:
        return _bounded(content, media_type, digest)
    return await asyncio.to_thread(_bounded, content, media_type, digest)


def _bounded(content: bytes, media_type: str, digest: Digest) -> Manifest:
    manifest = Manifest.of(content, media_type, digest)
    children = len(manifest.children)
    layers = sum(reference.kind is ReferenceKind.LAYER for reference in manifest.references)
    for count, limit, kind in (
        (children, REFERENCES_LIMIT, "manifests"),
        (layers, LAYERS_LIMIT, "layers"),
    ):
        if count > limit:
            raise ManifestUnreadable(
                f"it lists {count:,} {kind}, and at most {limit:,} are accepted"
            )
    largest = max((reference.size or 0 for reference in manifest.references), default=0)
    if largest > LARGEST_SIZE:
        # A number in JSON may have thousands of digits.
        size_text = f"{largest:,}" if largest < 10**24 else f"more than {10**24:,}"
        raise ManifestUnreadable(f"it has a descriptor of {size_text} bytes")
    return manifest


def attestations(content: bytes) -> dict[str, str]:
    """The image that each attestation of an index is about, by digest.

    The image is empty where the annotation has no digest. BuildKit marks attestations with
    annotations ("Attestation storage").
    """
    images = {}
    try:
        for entry in _entries(_odd_decoder.decode(first_json_value(content)).manifests):
            with suppress(*_UNDECODABLE):
                descriptor = _odd_descriptor_decoder.decode(entry)
                annotations = _loose(descriptor.annotations)
                if (
                    isinstance(annotations, dict)
                    and annotations.get("vnd.docker.reference.type") == "attestation-manifest"
                ):
                    images[_text(descriptor.digest) or ""] = _digest_or_nothing(
                        annotations.get("vnd.docker.reference.digest")
                    )
    except (*_UNDECODABLE, ManifestUnreadable):
        return {}
    return images


class _Artifact(msgspec.Struct):
    subject: msgspec.Raw = _ABSENT
    artifact_type: msgspec.Raw = msgspec.field(name="artifactType", default=_ABSENT)
    config: msgspec.Raw = _ABSENT


_artifact_decoder = msgspec.json.Decoder(_Artifact)


def subject_of(content: bytes) -> Digest | None:
    """The manifest that another one is about (OCI image specification 1.1, "subject").

    None where it names none that can be read.
    """
    try:
        subject = _artifact_decoder.decode(first_json_value(content)).subject
        return Digest.parse(_text(_odd_descriptor_decoder.decode(subject).digest) or "")
    except (*_UNDECODABLE, DigestInvalid):
        return None


def artifact_type_of(content: bytes) -> str | None:
    """The artifact type of a manifest, else the type of its config (OCI distribution 1.1).

    None where it has neither.
    """
    with suppress(*_UNDECODABLE):
        artifact = _artifact_decoder.decode(first_json_value(content))
        config_type = None
        with suppress(*_UNDECODABLE):
            config_type = _text(_odd_descriptor_decoder.decode(artifact.config).media_type)
        for media_type in (_text(artifact.artifact_type), config_type):
            if media_type and _is_media_type(media_type):
                return media_type
    return None


def _digest_or_nothing(text: Any) -> str:
    try:
        return str(Digest.parse(text)) if isinstance(text, str) else ""
    except DigestInvalid:
        return ""


def config_platform(content: bytes) -> str | None:
    """The platform that an image's config states; other artifacts have none."""
    text = first_json_value(content)
    try:
        platform = _platform_decoder.decode(text)
    except _UNDECODABLE:
        platform = _odd_platform(msgspec.Raw(text)) or _Platform()
    return _platform_name(_stated_platform(platform))


def _references(content: bytes) -> list[Descriptor]:
    try:
        # A document within the specification is parsed three times as fast.
        return _references_of(_decoder.decode(content))
    except _UNDECODABLE:
        pass
    except DigestInvalid as error:
        raise ManifestUnreadable(printable(str(error), 200)) from error
    try:
        return _references_of(_read_odd(first_json_value(content)))
    except (*_UNDECODABLE, DigestInvalid) as error:
        raise ManifestUnreadable(printable(str(error), 200)) from error


class _SchemaOneLayer(msgspec.Struct, rename="camel"):
    blob_sum: str


class _SchemaOne(msgspec.Struct, rename="camel"):
    schema_version: Literal[1]
    fs_layers: list[_SchemaOneLayer]


def _layers_of_schema_1(content: bytes) -> list[Descriptor]:
    """The layers of a manifest of Docker's schema 1, the base last. It states no sizes."""
    try:
        layers = msgspec.json.decode(first_json_value(content), type=_SchemaOne).fs_layers
        return [
            Descriptor(Digest.parse(layer.blob_sum), ReferenceKind.LAYER, DOCKER_LAYER, None)
            for layer in layers
        ]
    except (*_UNDECODABLE, DigestInvalid) as error:
        raise ManifestUnreadable(printable(str(error), 200)) from error


def _references_of(document: _Document) -> list[Descriptor]:
    if document.schema_version not in {None, 2}:
        raise ManifestUnreadable(
            f"schema version {printable(str(document.schema_version), 20)} is not supported"
        )
    references = _children(document.manifests or ())
    if document.config is not None and document.config != _NO_DESCRIPTOR:
        references.append(_descriptor(document.config, ReferenceKind.CONFIG))
    references.extend(
        _descriptor(layer, ReferenceKind.LAYER)
        for layer in (*(document.layers or ()), *(document.blobs or ()))
    )
    return references


def _children(entries: Iterable[_Descriptor]) -> list[Descriptor]:
    """The readable entries of an index.

    Where there are none, the first entry's error is raised.
    """
    children: list[Descriptor] = []
    first_error: DigestInvalid | None = None
    for entry in entries:
        try:
            children.append(_descriptor(entry, ReferenceKind.MANIFEST))
        except DigestInvalid as error:
            # Other algorithms are allowed, though they can't be verified here.
            if first_error is None and not is_of_other_algorithm(entry.digest):
                first_error = error
    if first_error is not None and not children:
        raise first_error
    return children


def _read_odd(text: bytes) -> _Document:
    """Parse a document outside the specification.

    Valid fields count, invalid ones are unknown.
    """
    document = _odd_decoder.decode(text)
    version = _loose(document.schema_version)
    if isinstance(version, str) and version.isascii() and version.isdigit():
        version = int(version[:4])
    config = None if document.config == _ABSENT else _odd_descriptor(document.config)
    if config is not None and not _is_object(document.config):
        raise ManifestUnreadable("its config is not an object")
    return _Document(
        schema_version=int(version)
        if isinstance(version, int | float) and not isinstance(version, bool)
        else None,
        config=config,
        layers=[_odd_descriptor(entry) for entry in _entries(document.layers)],
        manifests=[_odd_descriptor(entry) for entry in _entries(document.manifests)],
        blobs=[_odd_descriptor(entry) for entry in _entries(document.blobs)],
    )


def _is_object(raw: msgspec.Raw) -> bool:
    return bytes(raw).startswith(b"{")


def _entries(entries: msgspec.Raw) -> list[msgspec.Raw]:
    """The entries of a list; raises msgspec's errors for anything else."""
    if bytes(entries).count(b",") > ENTRIES_COMMAS:
        # A list of millions of numbers would take 25 times its size in memory.
        raise ManifestUnreadable("it lists more than any image has")
    decoded = _entries_decoder.decode(entries) or []
    if len(decoded) > REFERENCES_LIMIT:
        raise ManifestUnreadable(
            f"it lists {len(decoded):,} entries, and at most {REFERENCES_LIMIT:,} are accepted"
        )
    return decoded


def _odd_descriptor(raw: msgspec.Raw) -> _Descriptor:
    try:
        odd = _odd_descriptor_decoder.decode(raw)
    except _UNDECODABLE:
        # Anything but an object counts as a descriptor without a digest.
        return _NO_DESCRIPTOR
    urls = _loose(odd.urls)
    return _Descriptor(
        digest=_text(odd.digest) or "",
        size=_odd_size(odd.size),
        media_type=_text(odd.media_type),
        platform=_odd_platform(odd.platform),
        urls=urls if isinstance(urls, list) else None,
    )


def _odd_platform(raw: msgspec.Raw) -> _Platform | None:
    if raw == _ABSENT:
        return None
    try:
        odd = _odd_platform_decoder.decode(raw)
    except _UNDECODABLE:
        return _Platform()
    features = _loose(odd.os_features)
    return _Platform(
        _text(odd.os),
        _text(odd.architecture),
        _text(odd.variant),
        _text(odd.os_version),
        features if isinstance(features, list) else None,
    )


def _odd_size(raw: msgspec.Raw) -> int | None:
    try:
        size = msgspec.json.decode(raw)
    except _UNDECODABLE:
        # A number that no JSON reader accepts.
        return LARGEST_SIZE + 1
    if isinstance(size, str) and size.isascii() and size.isdigit() and len(size) < 20:
        size = int(size)
    return size if isinstance(size, int) and not isinstance(size, bool) else None


def _loose(raw: msgspec.Raw) -> Any:
    """The value of a field that may be of any type; None where it can't be decoded."""
    try:
        return msgspec.json.decode(raw)
    except _UNDECODABLE:
        return None


def _text(raw: msgspec.Raw) -> str | None:
    value = _loose(raw)
    return value if isinstance(value, str) else None


def _descriptor(stated: _Descriptor, kind: ReferenceKind) -> Descriptor:
    media_type = stated.media_type or ""
    platform = _stated_platform(stated.platform) if stated.platform is not None else None
    return Descriptor(
        digest=Digest.parse(stated.digest),
        kind=kind,
        media_type=media_type if _is_media_type(media_type) else UNTYPED,
        # A size beyond LARGEST_SIZE is refused later (F67), so that stored manifests of earlier
        # versions stay readable.
        size=stated.size if stated.size is not None and stated.size >= 0 else None,
        platform=_platform_name(platform) if platform is not None else None,
        optional=bool(stated.urls) or "nondistributable" in media_type or "foreign" in media_type,
        runs_on=platform,
    )


def _is_media_type(text: str) -> bool:
    """Whether *text* can be used as a media type.

    As lenient as clients are, beyond RFC 6838.
    """
    return (
        len(text) <= 255
        and text.isascii()
        and text.isprintable()
        and " " not in text
        and "/" in text
    )


def _stated_platform(stated: _Platform) -> Platform:
    """The platform that a descriptor or config states.

    The unknown one where it has no architecture, or a part outside `PLATFORM_PART`.
    """
    features = tuple((stated.os_features or ())[:OS_FEATURES_LIMIT])
    parts = (
        stated.os or "",
        stated.architecture or "",
        stated.variant or "",
        stated.os_version or "",
    )
    if max(map(len, parts)) > PLATFORM_PART_LENGTH:
        return UNKNOWN_PLATFORM
    return (
        _known_platform(*parts, features) if not features else _checked_platform(*parts, features)
    )


def _checked_platform(
    os: str, architecture: str, variant: str, version: str, features: tuple[Any, ...]
) -> Platform:
    parts = [part for part in (os, architecture, variant) if part]
    if not architecture or not all(map(PLATFORM_PART.fullmatch, parts)):
        return UNKNOWN_PLATFORM
    return Platform.of_descriptor(os, architecture, variant, version, list(features))


_known_platform = lru_cache(maxsize=1_000)(_checked_platform)
"""Cached: an index may have thousands of entries for a few platforms."""


def _platform_name(platform: Platform) -> str | None:
    return platform.name if platform.os not in {"", "unknown"} else None
