"""``/acr/v1/``: cached repositories in the shape of ACR's data API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from entrepot.core.pages import ListOrder, ListPosition, Page
from entrepot.core.reference import Digest, Repository, Tag, parse_repository, parse_tag
from entrepot.engine.repositories import (
    CachedManifest,
    CachedRepository,
    ListedTag,
    RepositoryService,
)
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

_ORDERS = {"timeasc": ListOrder.OLDEST, "timedesc": ListOrder.NEWEST}
"""ACR's names of orders; any other order is that of the names."""

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
        requested = _RequestedPage(request)
        names = (
            await self._repositories.names(after=requested.last, limit=requested.size + 1)
            if requested.size
            else []
        )
        headers = requested.link_after(names, lambda name: name)
        return json_response({"repositories": names[: requested.size]}, headers=headers)

    async def get(self, request: Request) -> Response:
        """One repository."""
        repository, changed = await self._repositories.describe(_repository(request))
        return json_response(_repository_document(request, repository, changed))

    async def delete(self, request: Request) -> Response:
        """Delete a repository."""
        digests, tags = await self._repositories.delete(_repository(request))
        return json_response(
            {"manifestsDeleted": list(map(str, digests)), "tagsDeleted": list(tags)}, status=202
        )

    async def patch(self, request: Request) -> Response:
        """Lock or unlock a repository."""
        name, locked = _repository(request), await _requested_lock(request)
        if locked is not None:
            await self._repositories.lock(name, locked=locked)
        return await self.get(request)

    async def list_tags(self, request: Request) -> Response:
        """The tags of a repository."""
        name, requested = _repository(request), _RequestedPage(request)
        tags = await self._repositories.listed_tags(
            name, requested.page, digest=_digest_filter(request)
        )
        document = {
            "registry": _registry(request),
            "imageName": name,
            "tags": [_tag_document(tag) for tag in tags[: requested.size]],
        }
        headers = requested.link_after(
            tags, lambda tag: requested.position(tag.name, tag.entry.cached)
        )
        return json_response(document, headers=headers)

    async def get_tag(self, request: Request) -> Response:
        """One tag."""
        name = _repository(request)
        tag = await self._repositories.listed_tag(name, _tag(request))
        return json_response(
            {"registry": _registry(request), "imageName": name, "tag": _tag_document(tag)}
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
        name, requested = _repository(request), _RequestedPage(request)
        manifests = await self._repositories.listed_manifests(name, requested.page)
        document = {
            "registry": _registry(request),
            "imageName": name,
            "manifests": [_manifest_document(manifest) for manifest in manifests[: requested.size]],
        }
        headers = requested.link_after(
            manifests,
            lambda manifest: requested.position(str(manifest.digest), manifest.cached),
        )
        return json_response(document, headers=headers)

    async def get_manifest(self, request: Request) -> Response:
        """One manifest."""
        name = _repository(request)
        manifest = await self._repositories.listed_manifest(name, _digest(request))
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


class _RequestedPage:
    """The page that a request asks for: ``n`` entries after ``last``, in the order ``orderby``.

    One entry more is read, to know whether there is a next page.
    """

    def __init__(self, request: Request) -> None:
        self._path: str = request.scope["path"]
        parameters = request.query_params
        size = page_size(parameters.get("n"), MAX_PAGE_SIZE)
        self.size = DEFAULT_PAGE_SIZE if size is None else size
        self.last = parameters.get("last")
        self._selection = {
            name: parameters[name] for name in ("orderby", "digest") if name in parameters
        }
        self._order = _ORDERS.get(parameters.get("orderby", ""), ListOrder.NAME)
        after = _parse_position(self.last, self._order) if self.last is not None else None
        self.page = Page(self.size + 1, after, self._order)

    def position(self, name: str, cached: float) -> str:
        """What ``last`` says after an entry.

        In the order of time it has the time too: the entry may be gone, or have moved, when the
        next page is read.
        """
        return name if self._order is ListOrder.NAME else f"{cached!r}/{name}"

    def link_after(
        self, entries: Sequence[Entry], position: Callable[[Entry], str]
    ) -> Mapping[str, str]:
        """The header that links to the next page, if there is one."""
        if not self.size or len(entries) <= self.size:
            return {}
        last = position(entries[self.size - 1])
        query = urlencode({"last": last, "n": self.size, **self._selection})
        return {"Link": f'<{self._path}?{query}>; rel="next"'}


def _parse_position(last: str, order: ListOrder) -> ListPosition:
    """Where a page begins: after a name or digest, or after what `position` wrote."""
    time, slash, name = last.partition("/")
    if slash and order is not ListOrder.NAME:
        with suppress(ValueError):
            return ListPosition(name, float(time))
    return ListPosition(last)


def _digest_filter(request: Request) -> Digest | None:
    digest = request.query_params.get("digest")
    return Digest.parse(digest) if digest else None


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _attributes(locked: bool) -> dict[str, bool]:
    return {"deleteEnabled": not locked, **_FIXED}


def _repository_document(
    request: Request, repository: CachedRepository, changed: float
) -> dict[str, Any]:
    return {
        "registry": _registry(request),
        "imageName": repository.name,
        "createdTime": _time(repository.created),
        "lastUpdateTime": _time(changed),
        "manifestCount": repository.manifests,
        "tagCount": repository.tags,
        "changeableAttributes": _attributes(repository.locked),
    }


def _tag_document(tag: ListedTag) -> dict[str, Any]:
    return {
        "name": tag.name,
        "digest": str(tag.entry.digest),
        "createdTime": _time(tag.entry.cached),
        "lastUpdateTime": _time(tag.entry.cached),
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
