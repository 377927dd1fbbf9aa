"""``/entrepot/v1/repositories``: cached repositories as the dashboard shows them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from entrepot.api.models import RepositoryDetail
from entrepot.core.reference import Repository, parse_repository, parse_tag
from entrepot.engine.etags import Revisions
from entrepot.engine.repositories import RepositoryService
from entrepot.server.responses import json_array, json_response, streamed_listing_response

_REPOSITORY = "/entrepot/v1/repositories/{name:path}"


class RepositoryEndpoints:
    """The cached repositories of one engine."""

    def __init__(self, repositories: RepositoryService, revisions: Revisions) -> None:
        self._repositories = repositories
        self._revisions = revisions

    def routes(self) -> Sequence[BaseRoute]:
        """The routes of cached repositories."""
        # A part of a repository's name can't begin with an underscore, so what comes below a
        # repository can't be taken for one.
        return [
            Route("/entrepot/v1/repositories", self.list),
            Route(f"{_REPOSITORY}/_tags/{{tag}}/_plan", self.preview_delete_tag),
            Route(f"{_REPOSITORY}/_tags/{{tag}}", self.get_tag),
            Route(f"{_REPOSITORY}/_plan", self.preview_delete),
            Route(_REPOSITORY, self.get),
        ]

    async def list(self, request: Request) -> Response:
        """``GET /entrepot/v1/repositories``"""
        return await streamed_listing_response(
            request, self._revisions.repositories, lambda: json_array(self._repositories.pages())
        )

    async def get(self, request: Request) -> Response:
        """``GET /entrepot/v1/repositories/{name}``"""
        name = _repository(request)
        return await streamed_listing_response(
            request, self._revisions.tags, lambda: self._detail(name)
        )

    async def _detail(self, name: Repository) -> AsyncGenerator[bytes]:
        """The JSON of a `RepositoryDetail`, a chunk for each page of tags."""
        repository = await self._repositories.summary(name)
        before, _, after = msgspec.json.encode(
            RepositoryDetail(repository=repository, tags=())
        ).rpartition(b"[]")
        pages = self._repositories.tag_pages(name)
        async with aclosing(json_array(pages, before=before, after=after)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def get_tag(self, request: Request) -> Response:
        """``GET /entrepot/v1/repositories/{name}/_tags/{tag}``"""
        tag = parse_tag(request.path_params["tag"])
        return json_response(await self._repositories.get_tag(_repository(request), tag))

    async def preview_delete(self, request: Request) -> Response:
        """``GET /entrepot/v1/repositories/{name}/_plan``"""
        return json_response(await self._repositories.preview_delete(_repository(request)))

    async def preview_delete_tag(self, request: Request) -> Response:
        """``GET /entrepot/v1/repositories/{name}/_tags/{tag}/_plan``"""
        tag = parse_tag(request.path_params["tag"])
        return json_response(await self._repositories.preview_delete_tag(_repository(request), tag))


def _repository(request: Request) -> Repository:
    return parse_repository(request.path_params["name"], field="name")
