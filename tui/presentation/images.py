"""What is behind a tag as rows, sentences and facts: images of platforms, and their layers."""

from __future__ import annotations

from collections.abc import Callable

from entrepot.api.models import ImageBlob, TagDetail, TagImage
from entrepot.core.states import CachedState
from entrepot.formatting import ago, counted, short_digest, since, size
from tui.presentation.repositories import tag_state
from tui.presentation.status import join_names
from widgets.row_list import Cell, Row

HELD = {
    CachedState.CACHED: ("held", "good"),
    CachedState.PARTLY_CACHED: ("in part", "warn"),
    CachedState.NOT_CACHED: ("not here", "dim"),
}

_CLIENTS_GET_IT_ELSEWHERE = ("foreign", "nondistributable")


def image_name(image: TagImage, detail: TagDetail) -> str:
    """The platform of an image, or what it attests."""
    if image.attests is None:
        return image.platform or "no platform named"
    about = next((each.platform for each in detail.images if each.digest == image.attests), None)
    return f"attestation of {about or short_digest(image.attests)}"


def image_row(image: TagImage, detail: TagDetail, clock: Callable[[], float]) -> Row:
    """Platform, how much is held, size and last use of an image."""
    name = image_name(image, detail)
    word, tone = HELD[image.holding]

    def cells() -> tuple[Cell, ...]:
        return (
            Cell(
                f"{name}  locked" if image.locked else name,
                "accent" if image.attests is None else "dim",
            ),
            Cell(word, tone),
            Cell(
                size(image.size) if image.size is not None else "not known",
                "" if image.size is not None else "dim",
            ),
            Cell(size(image.held_size)),
            Cell(ago(image.last_used, clock()) if image.last_used is not None else "-", "dim"),
        )

    order = (
        name,
        tuple(HELD).index(image.holding),
        image.size or 0,
        image.held_size,
        image.last_used or 0.0,
    )
    return Row(image.digest, cells, search=f"{name} {word} {image.digest}", order=order)


def image_lines(image: TagImage, detail: TagDetail, now: float) -> tuple[str, ...]:
    """An image in sentences."""
    word, _ = HELD[image.holding]
    shared = shared_size(image)
    parts = [
        word
        if image.holding is not CachedState.PARTLY_CACHED or image.size is None
        else f"{word}: {size(image.held_size)} of {size(image.size)}",
        f"{size(shared)} of it shared"
        if shared
        else "nothing of it shared"
        if image.held_size
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
        ("Held", HELD[image.holding][0]),
        (
            "Size",
            f"{size(image.held_size)} of {size(image.size)}"
            if image.size is not None
            else "not known before it is pulled",
        ),
        *((("Shared", f"{size(shared_size(image))} with other images"),) if image.layers else ()),
        (
            "Last used",
            since(image.last_used, now) if image.last_used is not None else "not since it came",
        ),
        *((("Locked", "yes: neither evicted nor deleted"),) if image.locked else ()),
        ("", ""),
        ("Tag", f"{detail.repository}:{detail.tag.name}"),
        ("Points to", detail.tag.digest),
        ("State", tag_state(detail.tag, now)[0]),
        ("Own", f"{size(detail.own_size)} that only this tag needs"),
        ("Shared", f"{size(detail.shared_size)} that others need too"),
    )


def shared_size(image: TagImage) -> int:
    """Bytes held of an image that others have too."""
    return sum(each.size or 0 for each in blobs(image) if each.held and is_shared(each))


def blobs(image: TagImage) -> tuple[ImageBlob, ...]:
    """The config and the layers of an image."""
    return (image.config, *image.layers) if image.config is not None else image.layers


def is_shared(blob: ImageBlob) -> bool:
    """Whether others have it too."""
    return bool(blob.shared_images or blob.shared_repositories)


def blob_kind(blob: ImageBlob, image: TagImage) -> str:
    """What a blob is, in a word or two."""
    if image.config is not None and blob.digest == image.config.digest:
        return "config"
    media_type = blob.media_type
    if "in-toto" in media_type:
        return "attestation"
    if "layer" not in media_type and "rootfs" not in media_type:
        return media_type.rpartition("/")[2].removeprefix("vnd.")
    compression = next((word for word in ("zstd", "gzip") if media_type.endswith(word)), "")
    told = f"layer, {compression}" if compression else "layer"
    return (
        f"{told}, kept elsewhere"
        if any(word in media_type for word in _CLIENTS_GET_IT_ELSEWHERE)
        else told
    )


def blob_row(blob: ImageBlob, image: TagImage, number: int) -> Row:
    """Digest, kind, size, whether it is held, and who shares it."""
    kind = blob_kind(blob, image)
    cells = (
        Cell(short_digest(blob.digest), "accent"),
        Cell(kind, "dim"),
        Cell(_size_of(blob)),
        Cell("held" if blob.held else "not here", "good" if blob.held else "dim"),
        Cell(sharers(blob), "" if is_shared(blob) else "dim"),
    )
    # An image may have the same layer twice.
    return Row(
        f"{number}", cells, order=(blob.digest, kind, blob.size or 0, blob.held, blob.shared_images)
    )


def _size_of(blob: ImageBlob) -> str:
    return "not known" if blob.size is None else size(blob.size)


def sharers(blob: ImageBlob) -> str:
    """Who has a blob too."""
    if not is_shared(blob):
        return "only here"
    others = (
        counted(blob.shared_images, "image")
        if blob.shared_images
        else counted(blob.shared_repositories, "repository", "repositories")
    )
    return f"{others}: {join_names(blob.shared_with, limit=2)}" if blob.shared_with else others


def blob_lines(blob: ImageBlob, image: TagImage) -> tuple[str, ...]:
    """A blob in sentences."""
    shared = f"shared with {sharers(blob)}" if is_shared(blob) else "only here"
    return (
        blob.digest,
        f"{blob_kind(blob, image)}   {_size_of(blob)}   {'held' if blob.held else 'not here'}   {shared}",
    )


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
            else "not known before it is pulled",
        ),
        ("Held", "yes" if blob.held else "no"),
        ("", ""),
        ("Shared with", _shared_with(blob)),
        *(("", each) for each in blob.shared_with),
    )


def _shared_with(blob: ImageBlob) -> str:
    if not is_shared(blob):
        return "nobody: it is only here"
    images = counted(blob.shared_images, "image")
    return (
        f"{images} of {counted(blob.shared_repositories, 'other repository', 'other repositories')}"
        if blob.shared_repositories
        else images
    )


def tag_title(detail: TagDetail) -> str:
    """A tag in the title of its screen."""
    images = sum(each.attests is None for each in detail.images)
    kind = f"index of {counted(images, 'platform')}" if detail.is_index else "one image"
    return f"{detail.repository}:{detail.tag.name}   {kind}   {size(detail.own_size)} own, {size(detail.shared_size)} shared"
