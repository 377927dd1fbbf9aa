"""``/acr/v1/``: cached repositories in the shape of ACR's data API, and
``/entrepot/v1/repositories`` as the dashboard wants them."""

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
from entrepot.core.reference import Digest, Repository, parse_repository, parse_tag
from entrepot.engine.engine import Engine
from entrepot.engine.repositories import holds_no
from entrepot.errors import RequestInvalid
from entrepot.formatting import printable
from entrepot.server.acr.management import json_response, listing, read_body, resource
from entrepot.server.paging import page_size
from entrepot.store.catalog import CachedManifest

PAGE = 100
"""Entries of a page when the caller names no number, as in ACR."""

LARGEST_PAGE = 1000
"""Entries of a page at the most."""

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


async def _lock_asked(request: Request) -> bool | None:
    """Whether a lock is wanted, or to be taken away; None when the body leaves it as it is. Raises
    `RequestInvalid` for what can't be changed."""
    asked = await read_body(
        request,
        _Attributes,
        hint='Send {"deleteEnabled": false} to lock, {"deleteEnabled": true} to unlock.',
    )
    told = msgspec.to_builtins(asked)
    for name, value in _FIXED.items():
        if told[name] is not None and told[name] != value:
            raise RequestInvalid(
                f"{name} is always {str(value).lower()} here: a cache is not pushed to, and what it holds can be pulled and listed.",
                "Only deleteEnabled can be changed.",
                field=name,
            )
    return None if asked.delete_enabled is None else not asked.delete_enabled


def routes(engine: Engine) -> list[BaseRoute]:
    """Cached repositories, their tags and manifests."""

    async def catalog(request: Request) -> Response:
        names = await engine.catalog.repository_names()
        page, headers = _page(request, names, [str(name) for name in names])
        return json_response({"repositories": page}, headers=headers)

    async def show(request: Request) -> Response:
        detail = await engine.repositories.get(_repository(request))
        return json_response(_repository_document(request, detail.repository, detail.tags))

    async def delete(request: Request) -> Response:
        name = _repository(request)
        manifests = await engine.catalog.manifests(name)
        await engine.repositories.delete(name)
        tags = [tag for each in manifests for tag in each.tags]
        return json_response(
            {"manifestsDeleted": [str(each.digest) for each in manifests], "tagsDeleted": tags},
            status=202,
        )

    async def change(request: Request) -> Response:
        name, locked = _repository(request), await _lock_asked(request)
        if locked is not None:
            await engine.repositories.lock(name, locked=locked)
        return await show(request)

    async def list_tags(request: Request) -> Response:
        detail = await engine.repositories.get(_repository(request))
        page, headers = _page(request, detail.tags, [tag.name for tag in detail.tags])
        document = {
            "registry": _registry(request),
            "imageName": detail.repository.name,
            "tags": [_tag_document(tag) for tag in page],
        }
        return json_response(document, headers=headers)

    async def show_tag(request: Request) -> Response:
        detail = await engine.repositories.get(_repository(request))
        name = parse_tag(request.path_params["tag"])
        tag = next((each for each in detail.tags if each.name == name), None)
        if tag is None:
            raise holds_no(detail.repository.name, f"tag {name}")
        return json_response(
            {
                "registry": _registry(request),
                "imageName": detail.repository.name,
                "tag": _tag_document(tag),
            }
        )

    async def change_tag(request: Request) -> Response:
        name, tag, locked = (
            _repository(request),
            parse_tag(request.path_params["tag"]),
            await _lock_asked(request),
        )
        if locked is not None:
            await engine.repositories.lock_tag(name, tag, locked=locked)
        return await show_tag(request)

    async def delete_tag(request: Request) -> Response:
        await engine.repositories.delete_tag(
            _repository(request), parse_tag(request.path_params["tag"])
        )
        return Response(status_code=202)

    async def list_manifests(request: Request) -> Response:
        name = _repository(request)
        manifests = await _manifests(name)
        page, headers = _page(request, manifests, [str(each.digest) for each in manifests])
        document = {
            "registry": _registry(request),
            "imageName": name,
            "manifests": [_manifest_document(each) for each in page],
        }
        return json_response(document, headers=headers)

    async def show_manifest(request: Request) -> Response:
        name = _repository(request)
        digest = Digest.parse(request.path_params["digest"])
        found = next((each for each in await _manifests(name) if each.digest == digest), None)
        if found is None:
            raise holds_no(name, f"manifest {digest}")
        return json_response(
            {
                "registry": _registry(request),
                "imageName": name,
                "manifest": _manifest_document(found),
            }
        )

    async def change_manifest(request: Request) -> Response:
        name, digest, locked = (
            _repository(request),
            Digest.parse(request.path_params["digest"]),
            await _lock_asked(request),
        )
        if locked is not None:
            await engine.repositories.lock_manifest(name, digest, locked=locked)
        return await show_manifest(request)

    async def delete_manifest(request: Request) -> Response:
        await engine.repositories.delete_manifest(
            _repository(request), Digest.parse(request.path_params["digest"])
        )
        return Response(status_code=202)

    async def _manifests(name: Repository) -> list[CachedManifest]:
        found = await engine.catalog.manifests(name)
        if not found:
            await engine.repositories.get(name)
        return sorted(found, key=lambda each: str(each.digest))

    async def snapshots(request: Request) -> Response:
        return await listing(request, engine.revisions.repositories, engine.repositories.list)

    async def detail(request: Request) -> Response:
        return json_response(await engine.repositories.get(_repository(request)))

    async def tag_detail(request: Request) -> Response:
        return json_response(
            await engine.repositories.get_tag(
                _repository(request), parse_tag(request.path_params["tag"])
            )
        )

    async def tag_plan(request: Request) -> Response:
        return json_response(
            await engine.repositories.preview_delete_tag(
                _repository(request), parse_tag(request.path_params["tag"])
            )
        )

    async def plan(request: Request) -> Response:
        return json_response(await engine.repositories.preview_delete(_repository(request)))

    # A part of a repository's name can't begin with an underscore, so what comes below a repository
    # can't be taken for one.
    base, own = "/acr/v1/{name:path}", "/entrepot/v1/repositories/{name:path}"
    return [
        Route("/acr/v1/_catalog", catalog),
        resource(f"{base}/_tags/{{tag}}", GET=show_tag, PATCH=change_tag, DELETE=delete_tag),
        Route(f"{base}/_tags", list_tags),
        resource(
            f"{base}/_manifests/{{digest}}",
            GET=show_manifest,
            PATCH=change_manifest,
            DELETE=delete_manifest,
        ),
        Route(f"{base}/_manifests", list_manifests),
        resource(base, GET=show, PATCH=change, DELETE=delete),
        Route("/entrepot/v1/repositories", snapshots),
        Route(f"{own}/_tags/{{tag}}/_plan", tag_plan),
        Route(f"{own}/_tags/{{tag}}", tag_detail),
        Route(f"{own}/_plan", plan),
        Route(own, detail),
    ]


def _repository(request: Request) -> Repository:
    return parse_repository(request.path_params["name"], field="name")


def _registry(request: Request) -> str:
    # Starlette fails to make a URL of an odd Host.
    return printable(request.headers.get("host", ""), 255)


def _page(
    request: Request, entries: Sequence[Entry], keys: Sequence[str]
) -> tuple[list[Entry], Mapping[str, str]]:
    """The entries after ``last``, ``n`` of them at the most, in the order of *keys*, and a link to
    the next page if there is one."""
    size, last = (
        page_size(request.query_params.get("n"), LARGEST_PAGE),
        request.query_params.get("last"),
    )
    if size == 0:
        return [], {}
    n = PAGE if size is None else size
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
