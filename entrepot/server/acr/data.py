"""``/acr/v1/``: cached repositories in the shape of ACR's data API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from entrepot.api.models import RepositorySnapshot, TagSnapshot
from entrepot.core.reference import Digest, Repository, Tag, parse_repository, parse_tag
from entrepot.engine.repositories import CachedManifest, RepositoryService, not_in_repository
from entrepot.errors import RequestInvalid
from entrepot.formatting import printable
from entrepot.server.paging import page_size
from entrepot.server.request_body import read_body
from entrepot.server.responses import DATA_API, json_response
from entrepot.server.routes import resource_route

DEFAULT_PAGE_SIZE = 100
"""Entries of a page when the client names no number, as in ACR."""

MAX_PAGE_SIZE = 1000
"""The most entries of a page."""

Entry = TypeVar("Entry")

_FIXED = {"writeEnabled": False, "readEnabled": True, "listEnabled": True}
"""What can't be changed: nothing can be pushed to a cached repository, and everything may be pulled
and listed."""


class _Attributes(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body with which ACR's data API changes a repository, tag or manifest."""

    delete_enabled: bool | None = None
    write_enabled: bool | None = None
    read_enabled: bool | None = None
    list_enabled: bool | None = None


async def _requested_lock(request: Request) -> bool | None:
    """Whether a request's body locks or unlocks; None when it changes no lock.

    Raises `RequestInvalid` for what can't be changed.
    """
    attributes = await read_body(
        request,
        _Attributes,
        hint='Send {"deleteEnabled": false} to lock, {"deleteEnabled": true} to unlock.',
    )
    values = msgspec.to_builtins(attributes)
    for name, value in _FIXED.items():
        if values[name] is not None and values[name] != value:
            raise RequestInvalid(
                f"{name} is always {str(value).lower()} here: a cache is not pushed to, and what "
                "it holds can be pulled and listed.",
                "Only deleteEnabled can be changed.",
                field=name,
            )
    return None if attributes.delete_enabled is None else not attributes.delete_enabled


class DataResources:
    """Cached repositories with their tags and manifests."""

    def __init__(self, repositories: RepositoryService) -> None:
        self._repositories = repositories

    def routes(self) -> Sequence[BaseRoute]:
        """The routes of the data API."""
        # A part of a repository's name can't begin with an underscore, so what comes below a
        # repository can't be taken for one.
        repository = f"{DATA_API}{{name:path}}"
        return [
            Route(f"{DATA_API}_catalog", self.catalog),
            resource_route(
                f"{repository}/_tags/{{tag}}",
                GET=self.get_tag,
                PATCH=self.patch_tag,
                DELETE=self.delete_tag,
            ),
            Route(f"{repository}/_tags", self.list_tags),
            resource_route(
                f"{repository}/_manifests/{{digest}}",
                GET=self.get_manifest,
                PATCH=self.patch_manifest,
                DELETE=self.delete_manifest,
            ),
            Route(f"{repository}/_manifests", self.list_manifests),
            resource_route(repository, GET=self.get, PATCH=self.patch, DELETE=self.delete),
        ]

    async def catalog(self, request: Request) -> Response:
        """The names of all repositories."""
        names = await self._repositories.names()
        page, headers = _page(request, names, [str(name) for name in names])
        return json_response({"repositories": page}, headers=headers)

    async def get(self, request: Request) -> Response:
        """One repository."""
        detail = await self._repositories.get(_repository(request))
        return json_response(_repository_document(request, detail.repository, detail.tags))

    async def delete(self, request: Request) -> Response:
        """Delete a repository."""
        manifests = await self._repositories.delete(_repository(request))
        return json_response(
            {
                "manifestsDeleted": [str(manifest.digest) for manifest in manifests],
                "tagsDeleted": [tag for manifest in manifests for tag in manifest.tags],
            },
            status=202,
        )

    async def patch(self, request: Request) -> Response:
        """Lock or unlock a repository."""
        name, locked = _repository(request), await _requested_lock(request)
        if locked is not None:
            await self._repositories.lock(name, locked=locked)
        return await self.get(request)

    async def list_tags(self, request: Request) -> Response:
        """The tags of a repository."""
        detail = await self._repositories.get(_repository(request))
        page, headers = _page(request, detail.tags, [tag.name for tag in detail.tags])
        document = {
            "registry": _registry(request),
            "imageName": detail.repository.name,
            "tags": [_tag_document(tag) for tag in page],
        }
        return json_response(document, headers=headers)

    async def get_tag(self, request: Request) -> Response:
        """One tag."""
        detail = await self._repositories.get(_repository(request))
        name = _tag(request)
        tag = next((tag for tag in detail.tags if tag.name == name), None)
        if tag is None:
            raise not_in_repository(detail.repository.name, f"tag {name}")
        return json_response(
            {
                "registry": _registry(request),
                "imageName": detail.repository.name,
                "tag": _tag_document(tag),
            }
        )

    async def patch_tag(self, request: Request) -> Response:
        """Lock or unlock a tag."""
        name, tag, locked = _repository(request), _tag(request), await _requested_lock(request)
        if locked is not None:
            await self._repositories.lock_tag(name, tag, locked=locked)
        return await self.get_tag(request)

    async def delete_tag(self, request: Request) -> Response:
        """Delete a tag."""
        await self._repositories.delete_tag(_repository(request), _tag(request))
        return Response(status_code=202)

    async def list_manifests(self, request: Request) -> Response:
        """The manifests of a repository."""
        name = _repository(request)
        manifests = await self._repositories.manifests(name)
        page, headers = _page(request, manifests, [str(manifest.digest) for manifest in manifests])
        document = {
            "registry": _registry(request),
            "imageName": name,
            "manifests": [_manifest_document(manifest) for manifest in page],
        }
        return json_response(document, headers=headers)

    async def get_manifest(self, request: Request) -> Response:
        """One manifest."""
        name, digest = _repository(request), _digest(request)
        manifests = await self._repositories.manifests(name)
        manifest = next((each for each in manifests if each.digest == digest), None)
        if manifest is None:
            raise not_in_repository(name, f"manifest {digest}")
        return json_response(
            {
                "registry": _registry(request),
                "imageName": name,
                "manifest": _manifest_document(manifest),
            }
        )

    async def patch_manifest(self, request: Request) -> Response:
        """Lock or unlock a manifest."""
        name, digest = _repository(request), _digest(request)
        locked = await _requested_lock(request)
        if locked is not None:
            await self._repositories.lock_manifest(name, digest, locked=locked)
        return await self.get_manifest(request)

    async def delete_manifest(self, request: Request) -> Response:
        """Delete a manifest."""
        await self._repositories.delete_manifest(_repository(request), _digest(request))
        return Response(status_code=202)


def _repository(request: Request) -> Repository:
    return parse_repository(request.path_params["name"], field="name")


def _tag(request: Request) -> Tag:
    return parse_tag(request.path_params["tag"])


def _digest(request: Request) -> Digest:
    return Digest.parse(request.path_params["digest"])


def _registry(request: Request) -> str:
    # Starlette fails to make a URL of an odd Host.
    return printable(request.headers.get("host", ""), 255)


def _page(
    request: Request, entries: Sequence[Entry], keys: Sequence[str]
) -> tuple[list[Entry], Mapping[str, str]]:
    """A page of *entries*, and a link to the next page if there is one.

    The page has at most ``n`` entries, which follow ``last`` in the order of *keys*.
    """
    size, last = (
        page_size(request.query_params.get("n"), MAX_PAGE_SIZE),
        request.query_params.get("last"),
    )
    if size == 0:
        return [], {}
    n = DEFAULT_PAGE_SIZE if size is None else size
    following = [
        (key, entry) for key, entry in zip(keys, entries, strict=True) if last is None or key > last
    ]
    page = following[:n]
    if len(page) == len(following):
        return [entry for _, entry in page], {}
    path = request.scope["path"]
    return [entry for _, entry in page], {
        "Link": f'<{path}?{urlencode({"last": page[-1][0], "n": n})}>; rel="next"'
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _attributes(locked: bool) -> dict[str, bool]:
    return {"deleteEnabled": not locked, **_FIXED}


def _repository_document(
    request: Request, repository: RepositorySnapshot, tags: Sequence[TagSnapshot]
) -> dict[str, Any]:
    changed = max((tag.cached for tag in tags), default=repository.created)
    return {
        "registry": _registry(request),
        "imageName": repository.name,
        "createdTime": _time(repository.created),
        "lastUpdateTime": _time(changed),
        "manifestCount": repository.manifests,
        "tagCount": repository.tags,
        "changeableAttributes": _attributes(repository.locked),
    }


def _tag_document(tag: TagSnapshot) -> dict[str, Any]:
    return {
        "name": tag.name,
        "digest": tag.digest,
        "createdTime": _time(tag.cached),
        "lastUpdateTime": _time(tag.cached),
        "signed": False,
        "changeableAttributes": _attributes(tag.locked),
    }


def _manifest_document(manifest: CachedManifest) -> dict[str, Any]:
    document: dict[str, Any] = {
        "digest": str(manifest.digest),
        "imageSize": manifest.size,
        "createdTime": _time(manifest.cached),
        "lastUpdateTime": _time(manifest.cached),
        "mediaType": manifest.media_type,
        "tags": list(manifest.tags),
        "changeableAttributes": _attributes(manifest.locked),
    }
    if manifest.platform is not None:
        system, _, architecture = manifest.platform.partition("/")
        document |= {"os": system, "architecture": architecture.partition("/")[0]}
    return document
