"""Conversions of the results of `entrepot.core` and `entrepot.store` into the API's models."""

from __future__ import annotations

from entrepot.api.models import ImageBlob, TagImage
from entrepot.store.records import ImageBlobRecord, ImageRecord


def tag_image(image: ImageRecord) -> TagImage:
    """The API's model of a manifest behind a tag."""
    return TagImage(
        digest=image.digest,
        media_type=image.media_type,
        platform=image.platform,
        size=image.size,
        held_size=image.cached_size,
        holding=image.state,
        last_used=image.last_used,
        locked=image.locked,
        attests=image.attests,
        config=image_blob(image.config) if image.config is not None else None,
        layers=tuple(image_blob(layer) for layer in image.layers),
    )


def image_blob(blob: ImageBlobRecord) -> ImageBlob:
    """The API's model of a layer or a config."""
    return ImageBlob(
        digest=blob.digest,
        media_type=blob.media_type,
        size=blob.size,
        held=blob.cached,
        shared_images=blob.shared_images,
        shared_repositories=blob.shared_repositories,
        shared_with=blob.shared_with,
    )
