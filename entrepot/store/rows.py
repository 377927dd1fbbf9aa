"""What a manifest becomes in the tables."""

from __future__ import annotations

from typing import Any

from entrepot.store.manifests import Manifest


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
            "size": each.size,
            "platform": each.platform,
            "optional": each.optional,
        }
        for position, each in enumerate(manifest.references)
    ]
