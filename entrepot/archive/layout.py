"""The OCI image layout: its index, and what Entrepot adds to it.

Source: OCI image specification 1.1, "Image Layout" and "Annotations". Each tag is a descriptor of
``index.json`` with the annotation ``org.opencontainers.image.ref.name``. Annotations below
``vnd.entrepot.`` carry the state of the tag; programs that do not know them ignore them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import msgspec

from entrepot.core.media_types import INDEXES, OCI_INDEX
from entrepot.core.reference import Digest
from entrepot.errors import DigestInvalid, EntrepotError
from entrepot.formatting import printable

LAYOUT_FILE: Final = "oci-layout"
INDEX_FILE: Final = "index.json"
LAYOUT_CONTENT: Final = b'{"imageLayoutVersion":"1.0.0"}'

REF_NAME: Final = "org.opencontainers.image.ref.name"
"""``library/nginx:1.27``: the name here, by which skopeo finds an image in a layout."""

CONTAINERD_NAME: Final = "io.containerd.image.name"
"""``docker.io/library/nginx:1.27``: the name that ``ctr image import`` and docker give an image."""

REPOSITORY: Final = "vnd.entrepot.repository"
TAG: Final = "vnd.entrepot.tag"
SOURCE: Final = "vnd.entrepot.source"
CACHED: Final = "vnd.entrepot.tag.cached"
CHECKED: Final = "vnd.entrepot.tag.checked"
LAST_PULL: Final = "vnd.entrepot.tag.last-pull"
GONE: Final = "vnd.entrepot.tag.gone"
LOCKED: Final = "vnd.entrepot.tag.locked"
PLATFORM: Final = "vnd.entrepot.platform"

INDEX_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of an ``index.json``: about 20,000 tags with all their annotations."""

ENTRIES_LIMIT: Final = 50_000
"""Entries of an ``index.json``."""

MEMBERS_PER_ENTRY: Final = 40
"""Members that the objects of an entry have together at most, on average."""

UNTYPED: Final = "application/octet-stream"


class ArchiveInvalid(EntrepotError):
    """An archive can't be read, or has what no archive of images has."""

    code = "ArchiveInvalid"
    status = 400


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """A descriptor of ``index.json``; *size* is in bytes."""

    digest: Digest
    size: int
    media_type: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What is replaced by a later entry: the name, else the digest in its repository."""
        name = self.annotations.get(REF_NAME, "")
        return name, self.annotations.get(REPOSITORY, ""), "" if name else str(self.digest)

    def document(self) -> dict[str, object]:
        """The descriptor as JSON has it."""
        document: dict[str, object] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.artifact_type is not None:
            document["artifactType"] = self.artifact_type
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document


@dataclass(frozen=True, slots=True)
class Child:
    """A manifest that an index lists."""

    digest: Digest
    media_type: str


class _Descriptor(msgspec.Struct):
    digest: str
    size: int | None = None
    media_type: str | None = msgspec.field(name="mediaType", default=None)
    artifact_type: str | None = msgspec.field(name="artifactType", default=None)
    annotations: dict[str, str] | None = None


class _Index(msgspec.Struct):
    manifests: list[_Descriptor] | None = None
    media_type: str | None = msgspec.field(name="mediaType", default=None)
    config: msgspec.Raw = msgspec.Raw(b"null")


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


def read_index(content: bytes, where: str) -> list[ArchiveEntry]:
    """The entries of an ``index.json``; raises `ArchiveInvalid`."""
    index = decode_bounded(content, where)
    entries = []
    for number, descriptor in enumerate(index.manifests or (), start=1):
        try:
            digest = Digest.parse(descriptor.digest)
        except DigestInvalid as error:
            raise ArchiveInvalid(f"{where}: entry {number}: {error.what}") from error
        entries.append(
            ArchiveEntry(
                digest,
                descriptor.size or 0,
                descriptor.media_type or UNTYPED,
                descriptor.annotations or {},
                descriptor.artifact_type,
            )
        )
    return entries


def decode_bounded(content: bytes, where: str) -> _Index:
    """An index of at most `ENTRIES_LIMIT` entries; raises `ArchiveInvalid`."""
    # Before it is decoded: a small text may become objects of a hundred times its size.
    if (
        content.count(b"{") > 4 * ENTRIES_LIMIT
        or content.count(b":") > MEMBERS_PER_ENTRY * ENTRIES_LIMIT
    ):
        raise ArchiveInvalid(f"{where} lists more than {ENTRIES_LIMIT:,} manifests.")
    try:
        index = msgspec.json.decode(content, type=_Index)
    except _UNREADABLE as error:
        raise ArchiveInvalid(
            f"{where} can't be read: {printable(str(error), 200).rstrip('.')}.",
            "It is damaged, or is no OCI image layout.",
        ) from error
    if len(index.manifests or ()) > ENTRIES_LIMIT:
        raise ArchiveInvalid(f"{where} lists more than {ENTRIES_LIMIT:,} manifests.")
    return index


def write_index(entries: Iterable[ArchiveEntry]) -> bytes:
    """The ``index.json`` of some entries."""
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [entry.document() for entry in entries],
        }
    )


def merged(before: Iterable[ArchiveEntry], later: Iterable[ArchiveEntry]) -> list[ArchiveEntry]:
    """The entries of a layout after an export into it: a later one of the same name wins."""
    entries: dict[tuple[str, str, str], ArchiveEntry] = {}
    for entry in [*before, *later]:
        entries.pop(entry.key, None)
        entries[entry.key] = entry
    return list(entries.values())


def children_of(content: bytes, media_type: str) -> list[Child]:
    """The manifests that an index lists; none of an image.

    Raises `ArchiveInvalid` for what is no JSON.
    """
    try:
        index = decode_bounded(content, "A manifest")
    except ArchiveInvalid:
        if media_type in INDEXES:
            raise
        # The engine reads more kinds of manifests than this.
        return []
    children = []
    for descriptor in index.manifests or ():
        try:
            digest = Digest.parse(descriptor.digest)
        except DigestInvalid:
            continue
        children.append(Child(digest, descriptor.media_type or UNTYPED))
    return children


def stated_type(content: bytes) -> str | None:
    """The media type that a manifest states of itself."""
    try:
        return decode_bounded(content, "A manifest").media_type
    except ArchiveInvalid:
        return None


def time_text(seconds: float) -> str:
    """A time in seconds since the epoch as RFC 3339 has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def parse_time(text: str | None) -> float | None:
    """The reverse of `time_text`; None for what is no time."""
    if text is None or len(text) > 40:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
