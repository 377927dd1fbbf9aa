"""The images behind a tag and their layers, as rows, sentences and facts."""

from __future__ import annotations

from collections.abc import Callable

from entrepot.api.labels import (
    CACHED_LABELS,
    LOCKED,
    blob_cached,
    image_name,
    is_shared,
    sharers,
    tag_state,
)
from entrepot.api.models import ImageBlob, TagDetail, TagImage
from entrepot.core.states import CachedState
from entrepot.formatting import ago, counted, short_digest, since, size
from widgets.row_list import Cell, Row

CACHED_TONES = {
    CachedState.CACHED: "good",
    CachedState.PARTLY_CACHED: "warn",
    CachedState.NOT_CACHED: "dim",
}

_FOREIGN_LAYERS = ("foreign", "nondistributable")
"""Parts of the media types of layers that clients get from their own URLs."""


def image_row(image: TagImage, detail: TagDetail, clock: Callable[[], float]) -> Row:
    """The row of an image: platform, state, size, cached size and last use."""
    name = image_name(image, detail)
    word, tone = CACHED_LABELS[image.cached_state], CACHED_TONES[image.cached_state]

    def cells() -> tuple[Cell, ...]:
        return (
            Cell(
                f"{name}  locked" if image.locked else name,
                "accent" if image.attests is None else "dim",
            ),
            Cell(word, tone),
            Cell(
                size(image.size) if image.size is not None else "unknown",
                "" if image.size is not None else "dim",
            ),
            Cell(size(image.cached_size)),
            Cell(ago(image.last_used, clock()) if image.last_used is not None else "-", "dim"),
        )

    order = (
        name,
        tuple(CACHED_TONES).index(image.cached_state),
        image.size or 0,
        image.cached_size,
        image.last_used or 0.0,
    )
    return Row(image.digest, cells, search=f"{name} {word} {image.digest}", order=order)


def image_lines(image: TagImage, detail: TagDetail, now: float) -> tuple[str, ...]:
    """An image in sentences."""
    word = CACHED_LABELS[image.cached_state]
    shared = shared_size(image)
    parts = [
        word
        if image.cached_state is not CachedState.PARTLY_CACHED or image.size is None
        else f"{word}: {size(image.cached_size)} of {size(image.size)}",
        f"{size(shared)} of it shared"
        if shared
        else "nothing of it shared"
        if image.cached_size
        else "",
        f"used {since(image.last_used, now)}" if image.last_used is not None else "",
    ]
    return (
        image.digest,
        "   ".join([image_name(image, detail), *(part for part in parts if part)]),
    )


def image_facts(image: TagImage, detail: TagDetail, now: float) -> tuple[tuple[str, str], ...]:
    """An image, and the tag that leads to it, as names and values."""
    return (
        ("Platform", image_name(image, detail)),
        ("Digest", image.digest),
        ("Media type", image.media_type),
        ("State", CACHED_LABELS[image.cached_state]),
        (
            "Size",
            f"{size(image.cached_size)} of {size(image.size)}"
            if image.size is not None
            else "unknown until it is pulled",
        ),
        *((("Shared", f"{size(shared_size(image))} with other images"),) if image.layers else ()),
        (
            "Last used",
            since(image.last_used, now)
            if image.last_used is not None
            else "not since it was cached",
        ),
        *((("Locked", LOCKED),) if image.locked else ()),
        ("", ""),
        ("Tag", f"{detail.repository}:{detail.tag.name}"),
        ("Points to", detail.tag.digest),
        ("Tag state", tag_state(detail.tag, now)),
        ("Own", f"{size(detail.own_size)} only for this tag"),
        ("Shared", f"{size(detail.shared_size)} with other tags"),
    )


def shared_size(image: TagImage) -> int:
    """Cached bytes of an image that other images have too."""
    return sum(blob.size or 0 for blob in blobs(image) if blob.cached and is_shared(blob))


def blobs(image: TagImage) -> tuple[ImageBlob, ...]:
    """The config and the layers of an image."""
    return (image.config, *image.layers) if image.config is not None else image.layers


def blob_kind(blob: ImageBlob, image: TagImage) -> str:
    """The kind of a blob: ``layer, gzip``, ``config``, ``attestation``."""
    if image.config is not None and blob.digest == image.config.digest:
        return "config"
    media_type = blob.media_type
    if "in-toto" in media_type:
        return "attestation"
    if "layer" not in media_type and "rootfs" not in media_type:
        return media_type.rpartition("/")[2].removeprefix("vnd.")
    compression = next((word for word in ("zstd", "gzip") if media_type.endswith(word)), "")
    kind = f"layer, {compression}" if compression else "layer"
    is_foreign = any(word in media_type for word in _FOREIGN_LAYERS)
    return f"{kind}, hosted elsewhere" if is_foreign else kind


def blob_row(blob: ImageBlob, image: TagImage, number: int) -> Row:
    """The row of a blob: digest, kind, size, state and the images that share it."""
    kind = blob_kind(blob, image)
    cells = (
        Cell(short_digest(blob.digest), "accent"),
        Cell(kind, "dim"),
        Cell(_size_of(blob)),
        Cell(blob_cached(blob), "good" if blob.cached else "dim"),
        Cell(sharers(blob), "" if is_shared(blob) else "dim"),
    )
    # An image may have the same layer twice.
    return Row(
        f"{number}",
        cells,
        order=(blob.digest, kind, blob.size or 0, blob.cached, blob.shared_images),
    )


def _size_of(blob: ImageBlob) -> str:
    return "unknown" if blob.size is None else size(blob.size)


def blob_lines(blob: ImageBlob, image: TagImage) -> tuple[str, ...]:
    """A blob in sentences."""
    shared = f"shared with {sharers(blob)}" if is_shared(blob) else sharers(blob)
    parts = (blob_kind(blob, image), _size_of(blob), blob_cached(blob), shared)
    return (blob.digest, "   ".join(parts))


def blob_facts(blob: ImageBlob, image: TagImage) -> tuple[tuple[str, str], ...]:
    """A blob as names and values."""
    return (
        ("Digest", blob.digest),
        ("Kind", blob_kind(blob, image)),
        ("Media type", blob.media_type),
        (
            "Size",
            f"{size(blob.size)} ({blob.size:,} bytes)"
            if blob.size is not None
            else "unknown until it is pulled",
        ),
        ("State", blob_cached(blob)),
        ("", ""),
        ("Shared with", _shared_with(blob)),
        *(("", name) for name in blob.shared_with),
    )


def _shared_with(blob: ImageBlob) -> str:
    if not is_shared(blob):
        return "no other image"
    images = counted(blob.shared_images, "image")
    return (
        f"{images} of {counted(blob.shared_repositories, 'other repository', 'other repositories')}"
        if blob.shared_repositories
        else images
    )


def tag_title(detail: TagDetail) -> str:
    """The title of a tag's screen."""
    images = sum(image.attests is None for image in detail.images)
    kind = f"index of {counted(images, 'platform')}" if detail.is_index else "one image"
    sizes = f"{size(detail.own_size)} own, {size(detail.shared_size)} shared"
    return f"{detail.repository}:{detail.tag.name}   {kind}   {sizes}"
