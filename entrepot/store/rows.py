"""What a manifest becomes in the tables."""

from __future__ import annotations

from typing import Any

from entrepot.store.manifests import Manifest

UNKNOWN_SIZE = -1
"""The size of a reference whose manifest states none: the column takes no NULL, as earlier versions
made it."""


def stated_size(row_size: int) -> int | None:
    """The size of a reference's row in bytes; None where its manifest states none."""
    return row_size if row_size >= 0 else None


def reference_rows(manifest: Manifest) -> list[dict[str, Any]]:
    """A row of ``manifest_references`` for each reference of a manifest, in their order."""
    digest = str(manifest.digest)
    return [
        {
            "manifest": digest,
            "position": position,
            "digest": str(each.digest),
            "kind": each.kind,
            "media_type": each.media_type,
            "size": UNKNOWN_SIZE if each.size is None else each.size,
            "platform": each.platform,
            "optional": each.optional,
        }
        for position, each in enumerate(manifest.references)
    ]
