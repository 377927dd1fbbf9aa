"""Images for a fake registry, with all their bytes at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from entrepot.core.reference import Digest
from entrepot.demo.images import (
    OCI,
    GeneratedDescriptor,
    LayerRecipe,
    MediaTypes,
    build_config,
    build_index,
    build_manifest,
)


@dataclass(frozen=True, slots=True)
class Content:
    """A blob or manifest."""

    media_type: str
    content: bytes
    digest: Digest

    @classmethod
    def of(cls, media_type: str, content: bytes) -> Content:
        return cls(media_type, content, Digest.of(content))

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def descriptor(self) -> GeneratedDescriptor:
        return GeneratedDescriptor(self.media_type, self.digest, self.size)


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """The image of one platform."""

    platform: str
    manifest: Content
    config: Content
    layers: tuple[Content, ...]

    @property
    def digest(self) -> Digest:
        return self.manifest.digest

    @property
    def blobs(self) -> tuple[Content, ...]:
        return (self.config, *self.layers)

    @property
    def size(self) -> int:
        """Of config and layers, each counted once."""
        return sum({blob.digest: blob.size for blob in self.blobs}.values())


@dataclass(frozen=True, slots=True)
class FakeImage:
    """An image of one or several platforms, under a tag."""

    repository: str
    tag: str
    index: Content | None
    """None where the tag points to the manifest of the only platform."""
    platforms: dict[str, PlatformImage]

    @property
    def manifest(self) -> Content:
        """What the tag points to."""
        return (
            self.index if self.index is not None else next(iter(self.platforms.values())).manifest
        )

    @property
    def digest(self) -> Digest:
        """Of what the tag points to."""
        return self.manifest.digest

    @property
    def index_digest(self) -> Digest:
        assert self.index is not None, f"{self.repository}:{self.tag} has no index"
        return self.index.digest


Layers = Sequence[bytes | int]
"""Bytes are a layer as they are, the same for all platforms; a number is the size in bytes of a
generated tar.gz layer, another one for each platform."""


def build_image(
    repository: str,
    tag: str,
    layers: Layers | Mapping[str, Layers],
    platforms: Sequence[str],
    *,
    index: bool,
    media_types: MediaTypes = OCI,
) -> FakeImage:
    built: dict[str, PlatformImage] = {}
    for platform in platforms:
        contents, diff_ids = [], []
        for number, layer in enumerate(layers[platform] if isinstance(layers, Mapping) else layers):
            if isinstance(layer, bytes):
                contents.append(Content.of(media_types.layer, layer))
                diff_ids.append(contents[-1].digest)
            else:
                built_layer = LayerRecipe(
                    f"{repository}-{tag}-{platform}-{number}",
                    layer,
                    ((f"etc/layer-{number}", f"{repository}:{tag} {platform}\n"),),
                ).build()
                contents.append(Content.of(media_types.layer, built_layer.content))
                diff_ids.append(built_layer.diff_id)
        config = Content.of(
            media_types.config,
            build_config(platform, diff_ids, command=("/bin/sh", "-c", f"echo {repository}:{tag}")),
        )
        manifest = Content.of(
            media_types.manifest,
            build_manifest(
                config.descriptor, [content.descriptor for content in contents], media_types
            ),
        )
        built[platform] = PlatformImage(platform, manifest, config, tuple(contents))
    listed = (
        Content.of(
            media_types.index,
            build_index(
                ((image.platform, image.manifest.descriptor) for image in built.values()),
                media_types,
            ),
        )
        if index
        else None
    )
    return FakeImage(repository, tag, listed, built)
