"""The read-only source registry of ``entrepot demo``.

It serves generated images, slowly enough to watch. It serves the pull side of the OCI distribution
specification without sign-in. Images are built when they are first requested; only the layers that
were built last stay in memory.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from entrepot.core.reference import Digest
from entrepot.demo.images import (
    OCI,
    GeneratedDescriptor,
    Layer,
    LayerRecipe,
    build_config,
    build_index,
    build_manifest,
)
from entrepot.httpd.server import bind_tcp, serving

SPEED = 2_000_000.0
"""Bytes per second of each blob: with six at once, an image of 30 MB takes about 8 seconds."""

LAYERS_IN_MEMORY = 4
"""Built layers kept besides those being sent; the largest has 20 MB and is rebuilt in 0.1 s."""

CHUNK_SIZE = 64 * 1024
"""Bytes sent at a time."""

PLATFORMS = ("linux/amd64", "linux/arm64")

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class DemoImage:
    """An image of the demo.

    Its tags, and the recipes of its layers by platform, lowest first.
    """

    repository: str
    tags: tuple[str, ...]
    layers: Mapping[str, tuple[LayerRecipe, ...]]
    command: tuple[str, ...] = ("/bin/sh",)


def _image(
    repository: str,
    tags: str,
    layers: Iterable[tuple[str, float, Mapping[str, str]]],
    command: tuple[str, ...] = ("/bin/sh",),
) -> DemoImage:
    """An image whose *layers* have a name, a size in megabytes, and files.

    A name that ends with ``/`` gets the platform added: each platform has a layer of its own.
    """
    specifications = list(layers)

    def recipes(platform: str) -> tuple[LayerRecipe, ...]:
        return tuple(
            LayerRecipe(
                f"{name}{platform.rpartition('/')[2]}" if name.endswith("/") else name,
                int(size * _MB),
                tuple(files.items()),
            )
            for name, size, files in specifications
        )

    return DemoImage(
        repository,
        tuple(tags.split()),
        {platform: recipes(platform) for platform in PLATFORMS},
        command,
    )


_ALPINE = (
    "alpine/",
    3.6,
    {
        "etc/os-release": 'NAME="Alpine Linux (demo)"\nID=alpine\nVERSION_ID=3.21\n',
        "etc/alpine-release": "3.21.0\n",
    },
)
_DEBIAN = (
    "debian/",
    14.0,
    {
        "etc/os-release": 'NAME="Debian GNU/Linux (demo)"\nID=debian\nVERSION_ID="12"\n',
        "etc/debian_version": "12.9\n",
    },
)
_ICU = ("icu-data", 5.0, {"usr/share/icu/README": "The same data for every platform.\n"})
_API_RUNTIME = ("acme-api-runtime/", 9.0, {"opt/acme/runtime.txt": "runtime 7\n"})


def _nginx(version: str) -> list[tuple[str, float, Mapping[str, str]]]:
    page = "<!DOCTYPE html><title>Welcome</title><h1>Welcome to nginx (demo)!</h1>\n"
    return [
        _DEBIAN,
        (
            f"nginx-{version}/",
            8.0,
            {
                "etc/nginx/nginx.conf": "events {}\n"
                "http { server { listen 80; root /usr/share/nginx/html; } }\n"
            },
        ),
        (
            f"nginx-modules-{version}/",
            2.5,
            {"etc/nginx/modules.txt": "http_ssl_module http_v2_module\n"},
        ),
        (
            "nginx-pages",
            0.2,
            {"usr/share/nginx/html/index.html": page, "usr/share/nginx/html/50x.html": page},
        ),
        ("nginx-entrypoint", 0.02, {"docker-entrypoint.sh": '#!/bin/sh\nexec "$@"\n'}),
    ]


def _postgres(version: str) -> list[tuple[str, float, Mapping[str, str]]]:
    return [
        _DEBIAN,
        ("postgres-locales", 1.5, {"usr/share/i18n/SUPPORTED": "en_US.UTF-8 UTF-8\n"}),
        (
            f"postgres-{version}/",
            20.0,
            {"usr/share/postgresql/postgresql.conf.sample": "listen_addresses = '*'\n"},
        ),
        (
            f"postgres-contrib-{version}/",
            4.0,
            {"usr/share/postgresql/extension/README": "contrib\n"},
        ),
        (
            "postgres-entrypoint",
            0.02,
            {"usr/local/bin/docker-entrypoint.sh": '#!/bin/sh\nexec "$@"\n'},
        ),
    ]


def _sdk(version: str) -> list[tuple[str, float, Mapping[str, str]]]:
    return [
        _DEBIAN,
        _ICU,
        (
            f"dotnet-runtime-{version}/",
            12.0,
            {"usr/share/dotnet/LICENSE.txt": "Generated for a demo.\n"},
        ),
        (f"dotnet-sdk-{version}/", 18.0, {"usr/share/dotnet/sdk/version.txt": f"{version}\n"}),
        (
            f"dotnet-templates-{version}",
            2.0,
            {"usr/share/dotnet/templates/README": "console web worker\n"},
        ),
    ]


def _api(version: str) -> list[tuple[str, float, Mapping[str, str]]]:
    return [
        _ALPINE,
        _API_RUNTIME,
        (
            f"acme-api-{version}/",
            3.0,
            {
                "opt/acme/api/version.txt": f"{version}\n",
                "opt/acme/api/config.toml": 'listen = "0.0.0.0:8080"\n',
            },
        ),
    ]


IMAGES = (
    _image("library/alpine", "3.20", [("alpine-3.20/", 3.5, {"etc/alpine-release": "3.20.3\n"})]),
    _image("library/alpine", "3.21 latest", [_ALPINE]),
    _image("library/nginx", "1.27", _nginx("1.27"), ("nginx", "-g", "daemon off;")),
    _image("library/nginx", "1.28 stable latest", _nginx("1.28"), ("nginx", "-g", "daemon off;")),
    _image("library/postgres", "16", _postgres("16"), ("postgres",)),
    _image("library/postgres", "17 latest", _postgres("17"), ("postgres",)),
    _image("dotnet/sdk", "8.0", _sdk("8.0")),
    _image("dotnet/sdk", "9.0 latest", _sdk("9.0")),
    _image("acme/api", "1.4.0", _api("1.4.0"), ("/opt/acme/api/run",)),
    _image("acme/api", "1.4.1 latest", _api("1.4.1"), ("/opt/acme/api/run",)),
)
"""The images of the demo. Base layers are shared between images, some layers between platforms."""


@dataclass(frozen=True, slots=True)
class _BuiltLayer:
    """A built layer, without its content."""

    descriptor: GeneratedDescriptor
    diff_id: Digest


@dataclass(frozen=True, slots=True)
class _BuiltManifest:
    media_type: str
    content: bytes
    digest: Digest


class DemoRegistry:
    """The images of the demo, built when they are requested."""

    def __init__(self, images: Iterable[DemoImage] = IMAGES) -> None:
        self._images: dict[str, list[DemoImage]] = {}
        for image in images:
            self._images.setdefault(image.repository, []).append(image)
        self._tags: dict[str, dict[str, _BuiltManifest]] = {}
        self._manifests: dict[str, dict[str, _BuiltManifest]] = {}
        self._blobs: dict[str, dict[str, LayerRecipe | bytes]] = {}
        self._built: dict[LayerRecipe, _BuiltLayer] = {}
        self._recent: OrderedDict[LayerRecipe, bytes] = OrderedDict()
        self._building = asyncio.Lock()

    def tags(self, repository: str) -> list[str] | None:
        """The tags of a repository in order; None without such a repository."""
        images = self._images.get(repository)
        return None if images is None else sorted({tag for image in images for tag in image.tags})

    async def manifest(self, repository: str, reference: str) -> _BuiltManifest | None:
        """A manifest by tag or digest."""
        await self._build(repository)
        return self._tags.get(repository, {}).get(reference) or self._manifests.get(
            repository, {}
        ).get(reference)

    async def blob(self, repository: str, digest: str) -> bytes | None:
        """The content of a blob; a layer is built again unless it was built recently."""
        await self._build(repository)
        blob = self._blobs.get(repository, {}).get(digest)
        if not isinstance(blob, LayerRecipe):
            return blob
        # One at a time: building takes four times the memory of the layer.
        async with self._building:
            content = self._recent.get(blob)
            return (
                content if content is not None else await asyncio.to_thread(self._build_layer, blob)
            )

    async def blob_size(self, repository: str, digest: str) -> int | None:
        """The size of a blob in bytes; no layer is built again for it."""
        await self._build(repository)
        blob = self._blobs.get(repository, {}).get(digest)
        if blob is None:
            return None
        return self._built[blob].descriptor.size if isinstance(blob, LayerRecipe) else len(blob)

    async def _build(self, repository: str) -> None:
        if repository in self._tags or repository not in self._images:
            return
        async with self._building:
            if repository not in self._tags:
                await asyncio.to_thread(self._build_repository, repository)

    def _build_repository(self, repository: str) -> None:
        tags: dict[str, _BuiltManifest] = {}
        manifests: dict[str, _BuiltManifest] = {}
        blobs: dict[str, LayerRecipe | bytes] = {}

        def add(media_type: str, content: bytes) -> _BuiltManifest:
            built = _BuiltManifest(media_type, content, Digest.of(content))
            manifests[str(built.digest)] = built
            return built

        for image in self._images[repository]:
            children: list[tuple[str, GeneratedDescriptor]] = []
            for platform, recipes in image.layers.items():
                for recipe in recipes:
                    if recipe not in self._built:
                        self._build_layer(recipe)
                layers = [self._built[recipe] for recipe in recipes]
                blobs.update(
                    {
                        str(layer.descriptor.digest): recipe
                        for layer, recipe in zip(layers, recipes, strict=True)
                    }
                )
                config = build_config(
                    platform,
                    [layer.diff_id for layer in layers],
                    created_by=[f"COPY {recipe.name} /" for recipe in recipes],
                    command=image.command,
                )
                blobs[str(Digest.of(config))] = config
                manifest = add(
                    OCI.manifest,
                    build_manifest(
                        GeneratedDescriptor.of(OCI.config, config),
                        [layer.descriptor for layer in layers],
                    ),
                )
                children.append(
                    (
                        platform,
                        GeneratedDescriptor(
                            manifest.media_type, manifest.digest, len(manifest.content)
                        ),
                    )
                )
            index = add(OCI.index, build_index(children))
            tags.update(dict.fromkeys(image.tags, index))
        self._manifests[repository], self._blobs[repository], self._tags[repository] = (
            manifests,
            blobs,
            tags,
        )

    def _build_layer(self, recipe: LayerRecipe) -> bytes:
        layer: Layer = recipe.build()
        self._built[recipe] = _BuiltLayer(
            GeneratedDescriptor(OCI.layer, layer.digest, layer.size), layer.diff_id
        )
        self._recent[recipe] = layer.content
        while len(self._recent) > LAYERS_IN_MEMORY:
            self._recent.popitem(last=False)
        return layer.content


def demo_registry_app(
    images: Iterable[DemoImage] = IMAGES,
    *,
    speed: float | None = SPEED,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Starlette:
    """The demo's source registry as an ASGI application.

    *speed* limits each blob, in bytes per second; None: no limit.
    """
    registry = DemoRegistry(images)

    async def ping(_request: Request) -> Response:
        return JSONResponse({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})

    async def dispatch(request: Request) -> Response:
        path = request.path_params["path"]
        for kind, endpoint in (("/manifests/", manifest), ("/blobs/", blob), ("/tags/", tags)):
            repository, separator, reference = path.rpartition(kind)
            if separator:
                return await endpoint(request, repository, reference)
        return _error(
            404, "UNSUPPORTED", "The demo's source registry has manifests, blobs and tags."
        )

    async def manifest(request: Request, repository: str, reference: str) -> Response:
        built = await registry.manifest(repository, reference)
        if built is None:
            return _error(404, "MANIFEST_UNKNOWN", f"The demo has no {repository}:{reference}.")
        headers = {
            "Content-Type": built.media_type,
            "Docker-Content-Digest": str(built.digest),
            "Content-Length": str(len(built.content)),
        }
        return Response(built.content if request.method == "GET" else b"", headers=headers)

    async def blob(request: Request, repository: str, digest: str) -> Response:
        size = await registry.blob_size(repository, digest)
        if size is None:
            return _error(404, "BLOB_UNKNOWN", f"The demo's {repository} has no {digest}.")
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
        }
        if request.method == "HEAD":
            return Response(headers=headers | {"Content-Length": str(size)})
        start, end, status = 0, size, 200
        requested_range = _RANGE.fullmatch(request.headers.get("range", ""))
        if (
            requested_range is not None
            and request.headers.get("if-range", headers["ETag"]) == headers["ETag"]
        ):
            start, end, status = (
                int(requested_range[1]),
                min(int(requested_range[2]) + 1, size) if requested_range[2] else size,
                206,
            )
            if start >= end:
                return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        content = await registry.blob(repository, digest)
        assert content is not None  # its size is known
        return StreamingResponse(
            _throttled(content, start, end), status, headers | {"Content-Length": str(end - start)}
        )

    async def _throttled(content: bytes, start: int, end: int) -> AsyncIterator[bytes]:
        began = clock()
        view = memoryview(content)
        for offset in range(start, end, CHUNK_SIZE):
            chunk = view[offset : min(offset + CHUNK_SIZE, end)]
            if speed is not None:
                due = began + (offset - start + len(chunk)) / speed
                await pause(max(0.0, due - clock()))
            yield bytes(chunk)

    async def tags(request: Request, repository: str, _: str) -> Response:
        names = registry.tags(repository)
        if names is None:
            return _error(404, "NAME_UNKNOWN", f"The demo has no {repository}.")
        last = request.query_params.get("last", "")
        limit = request.query_params.get("n", "")
        following = [name for name in names if name > last]
        page = following[: int(limit)] if limit.isascii() and limit.isdigit() else following
        link = (
            {"Link": f'</v2/{repository}/tags/list?n={limit}&last={page[-1]}>; rel="next"'}
            if page and len(page) < len(following)
            else {}
        )
        return JSONResponse({"name": repository, "tags": page}, headers=link)

    return Starlette(
        routes=[
            Route("/v2/", ping, methods=["GET"]),
            Route("/v2/{path:path}", dispatch, methods=["GET"]),
        ]
    )


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"errors": [{"code": code, "message": message}]}, status)


@asynccontextmanager
async def served_on_loopback(app: Starlette) -> AsyncIterator[int]:
    """Serve *app* on a free port of 127.0.0.1; yields the port.

    It runs in the running event loop.
    """
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener):
        yield listener.getsockname()[1]
