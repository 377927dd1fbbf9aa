"""Manifests and indexes: the bytes as they came, and a view of what they refer to.

The bytes are never written anew: a digest that we serve is the digest that was asked. The view
follows the OCI image specification 1.1 and Docker's image manifest version 2, schema 2.

A cache is no validator (F82). What a descriptor says beside its digest may be missing, null or of
another type: then it is unknown. An entry of an index that can't be read is passed over as long as
others can be. A config or layer without a digest that can be verified makes the manifest
unreadable: no client could use the image.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any, Final, Self

import msgspec

from entrepot.core.media_types import INDEXES
from entrepot.core.platforms import OS_FEATURES_LIMIT, Platform, best_match
from entrepot.core.reference import Digest, is_of_other_algorithm
from entrepot.encoding import first_json_value
from entrepot.errors import DigestInvalid
from entrepot.formatting import printable

PLATFORM_PART_LENGTH = 64

PLATFORM_PART = re.compile(rf"[A-Za-z0-9._-]{{1,{PLATFORM_PART_LENGTH}}}")
"""What the operating system, the architecture and the variant of a platform may be. Whoever writes
a manifest chooses them: a platform with another part is dropped where the manifest is read (S03),
so that no log, no terminal and no shell sees it."""

UNKNOWN_PLATFORM = Platform("unknown", "unknown")
"""That of BuildKit's attestations, which no machine has, and of what states none that can be read."""

UNTYPED = "application/octet-stream"
"""The media type of what has none, or something else in its place."""

LAYERS_LIMIT = 1_000
"""The most layers of a manifest that is taken from a source: docker makes at most 127, and each
layer of a pull is a request and an open file."""

REFERENCES_LIMIT = 10_000
"""The most manifests of an index that is taken from a source. With a platform and annotations one
takes about 400 bytes, so 4 MiB hold no more than these."""

LARGEST_SIZE = 2**53
"""The largest size of a descriptor in bytes: what every JSON reader holds exactly (RFC 8259,
section 6), and the catalog can store."""

ENTRIES_COMMAS = 50 * REFERENCES_LIMIT
"""Commas that a list with odd entries has at most: an entry with a platform and annotations has
some twenty."""

PARSED_IN_THREAD = 128 * 1024
"""Bytes from which a manifest is parsed in a thread: one of 4 MiB takes a tenth of a second, in
which nobody else would be served."""


class ReferenceKind(StrEnum):
    """What a manifest refers to."""

    MANIFEST = "manifest"
    CONFIG = "config"
    LAYER = "layer"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Something that a manifest refers to. *size* is in bytes, None where the manifest states none."""

    digest: Digest
    kind: ReferenceKind
    media_type: str
    size: int | None
    platform: str | None = None
    """``linux/arm64/v8``, for the manifests of an index."""
    optional: bool = False
    """A layer that is to be had elsewhere (``urls``, or a media type that may not be distributed):
    kept when somebody asks for it, not part of a pull."""
    runs_on: Platform | None = None
    """The platform with version and features, as the index states it; None where it states none."""


class ManifestUnreadable(ValueError):
    """The bytes are not a manifest or index that we know."""


class _Platform(msgspec.Struct):
    """Each part may be null, which Go reads as empty."""

    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    os_version: str | None = msgspec.field(name="os.version", default=None)
    os_features: list[str] | None = msgspec.field(name="os.features", default=None)


class _Descriptor(msgspec.Struct):
    # Without a default: a list of a million empty objects must not become one of a million of
    # these.
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


_decoder = msgspec.json.Decoder(_Document)
_platform_decoder = msgspec.json.Decoder(_Platform)
_odd_decoder = msgspec.json.Decoder(_OddDocument)
_odd_descriptor_decoder = msgspec.json.Decoder(_OddDescriptor)
_odd_platform_decoder = msgspec.json.Decoder(_OddPlatform)
_entries_decoder = msgspec.json.Decoder(list[msgspec.Raw] | None)

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
        """Read a view of *content*, which may be one that was stored by an earlier version; raises
        `ManifestUnreadable`."""
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
        return tuple(
            {
                each.digest: each
                for each in self.references
                if each.kind is not ReferenceKind.MANIFEST
            }.values()
        )

    def child_for(self, platform: str | Platform) -> Descriptor | None:
        """The manifest of an index that runs best on a platform (F74); raises `PlatformInvalid` for
        a text that names none.

        Where the only image of an index states no platform, it is the one, as containerd has it:
        its config tells.
        """
        wanted = platform if isinstance(platform, Platform) else Platform.parse(platform)
        best = best_match(wanted, self.children, lambda child: child.runs_on)
        if best is not None:
            return best
        only = self.children[0] if len(self.children) == 1 else None
        return only if only is not None and only.runs_on is None else None


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
    largest = max((each.size or 0 for each in manifest.references), default=0)
    if largest > LARGEST_SIZE:
        # A number in JSON may have thousands of digits.
        shown = f"{largest:,}" if largest < 10**24 else f"more than {10**24:,}"
        raise ManifestUnreadable(f"it has a descriptor of {shown} bytes")
    return manifest


def attestations(content: bytes) -> dict[str, str]:
    """The attestations of an index, each with the image that it is about, by digest; empty where
    the annotation names no digest.

    BuildKit marks them with annotations ("Attestation storage").
    """
    attested = {}
    try:
        for entry in _entries(_odd_decoder.decode(first_json_value(content)).manifests):
            with suppress(*_UNDECODABLE):
                descriptor = _odd_descriptor_decoder.decode(entry)
                annotations = _loose(descriptor.annotations)
                if (
                    isinstance(annotations, dict)
                    and annotations.get("vnd.docker.reference.type") == "attestation-manifest"
                ):
                    attested[_text(descriptor.digest) or ""] = _digest_or_nothing(
                        annotations.get("vnd.docker.reference.digest")
                    )
    except (*_UNDECODABLE, ManifestUnreadable):
        return {}
    return attested


def _digest_or_nothing(text: Any) -> str:
    try:
        return str(Digest.parse(text)) if isinstance(text, str) else ""
    except DigestInvalid:
        return ""


def config_platform(content: bytes) -> str | None:
    """The platform that an image's config names; None when it names none (other artifacts than
    images)."""
    text = first_json_value(content)
    try:
        platform = _platform_decoder.decode(text)
    except _UNDECODABLE:
        platform = _odd_platform(msgspec.Raw(text)) or _Platform()
    return _platform_name(_stated_platform(platform))


def _references(content: bytes) -> list[Descriptor]:
    try:
        # What is as the specification has it is read three times as fast.
        return _references_of(_decoder.decode(content))
    except _UNDECODABLE:
        pass
    except DigestInvalid as error:
        raise ManifestUnreadable(printable(str(error), 200)) from error
    try:
        return _references_of(_read_odd(first_json_value(content)))
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
    references.extend(_descriptor(layer, ReferenceKind.LAYER) for layer in document.layers or ())
    return references


def _children(entries: Iterable[_Descriptor]) -> list[Descriptor]:
    """The entries of an index that can be read; raises what is wrong with the first one where none
    can."""
    children: list[Descriptor] = []
    odd: DigestInvalid | None = None
    for entry in entries:
        try:
            children.append(_descriptor(entry, ReferenceKind.MANIFEST))
        except DigestInvalid as error:
            # Other algorithms are allowed: nothing is wrong with them, though nothing can be
            # verified by them.
            if odd is None and not is_of_other_algorithm(entry.digest):
                odd = error
    if odd is not None and not children:
        raise odd
    return children


def _read_odd(text: bytes) -> _Document:
    """A document in which something is not as the specification has it: that says nothing, and what
    is as it should be counts."""
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
    )


def _is_object(raw: msgspec.Raw) -> bool:
    return bytes(raw).startswith(b"{")


def _entries(entries: msgspec.Raw) -> list[msgspec.Raw]:
    """The entries of a list; raises what msgspec raises for what is no list."""
    if bytes(entries).count(b",") > ENTRIES_COMMAS:
        # A list of millions of numbers would take 25 times its size in memory.
        raise ManifestUnreadable("it lists more than any image has")
    listed = _entries_decoder.decode(entries) or []
    if len(listed) > REFERENCES_LIMIT:
        raise ManifestUnreadable(
            f"it lists {len(listed):,} entries, and at most {REFERENCES_LIMIT:,} are taken"
        )
    return listed


def _odd_descriptor(raw: msgspec.Raw) -> _Descriptor:
    try:
        odd = _odd_descriptor_decoder.decode(raw)
    except _UNDECODABLE:
        # It is no object: one without a digest.
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
        # A number that no JSON reader takes.
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
        # One beyond LARGEST_SIZE is refused later (F67): what an earlier version stored is still
        # read.
        size=stated.size if stated.size is not None and stated.size >= 0 else None,
        platform=_platform_name(platform) if platform is not None else None,
        optional=bool(stated.urls) or "nondistributable" in media_type or "foreign" in media_type,
        runs_on=platform,
    )


def _is_media_type(text: str) -> bool:
    """Whether *text* may be shown and sent as a media type: RFC 6838 has less, and clients take
    more."""
    return (
        len(text) <= 255
        and text.isascii()
        and text.isprintable()
        and " " not in text
        and "/" in text
    )


def _stated_platform(stated: _Platform) -> Platform:
    """The platform that a descriptor or config states; the unknown one where it names no
    architecture, or a part beyond `PLATFORM_PART`."""
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
"""An index has thousands of entries for a few platforms."""


def _platform_name(platform: Platform) -> str | None:
    return platform.name if platform.os not in {"", "unknown"} else None
