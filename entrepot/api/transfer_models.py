"""What an engine and ``entrepot export`` or ``entrepot import`` say to each other.

Times are in seconds since the epoch, sizes in bytes.
"""

from __future__ import annotations

import msgspec

from entrepot.api.models import Snapshot
from entrepot.core.states import TagImport


class TransferredTag(Snapshot, frozen=True, kw_only=True):
    """The state of a tag that moves with it to another engine.

    *cached*: when it was first seen to point where it points; *checked*: when its source last
    confirmed that; *gone*: its source no longer has it.
    """

    cached: float
    checked: float
    last_pull: float | None = None
    gone: bool = False
    locked: bool = False


class PlannedManifest(Snapshot, frozen=True, kw_only=True):
    """A manifest of an export, with its bytes."""

    digest: str
    media_type: str
    content: bytes
    platform: str | None = None
    is_referrer: bool = False
    """It is about another manifest: a signature, an SBOM."""
    artifact_type: str | None = None


class PlannedBlob(Snapshot, frozen=True, kw_only=True):
    """A config or layer of an export."""

    digest: str
    size: int
    media_type: str
    cached: bool


class ExportPlan(Snapshot, frozen=True, kw_only=True):
    """All that belongs to one image: manifests from the top down, and blobs."""

    repository: str
    tag: str | None
    digest: str
    source: str
    """``docker.io/library/nginx``"""
    state: TransferredTag | None
    """None for an image that is named by its digest."""
    manifests: tuple[PlannedManifest, ...]
    blobs: tuple[PlannedBlob, ...]
    related_tags: tuple[str, ...] = ()
    """Tags with signatures or attestations of the image (cosign), to be exported as well."""
    left_out: tuple[str, ...] = ()
    """Platforms of the image that are not exported."""


class InventoryLine(msgspec.Struct, frozen=True, rename="camel"):
    """A cached blob, in a line of an inventory.

    *login_servers* are the source registries for whose repositories the copy may be served; None:
    for those of every registry.
    """

    digest: str
    size: int
    login_servers: tuple[str, ...] | None = None


class MissingBlob(Snapshot, frozen=True, kw_only=True):
    """A blob that an import has to send; its first *offset* bytes are here already."""

    digest: str
    size: int | None
    offset: int = 0


class ImportedManifest(Snapshot, frozen=True, kw_only=True):
    """A manifest that was imported, and the blobs that it needs and that are not here yet."""

    rule: str
    missing: tuple[MissingBlob, ...] = ()


class ImportedImage(Snapshot, frozen=True, kw_only=True):
    """An image that was imported whole. *outcome* is that of its tag; None without one."""

    repository: str
    tag: str | None
    digest: str
    rule: str
    outcome: TagImport | None
