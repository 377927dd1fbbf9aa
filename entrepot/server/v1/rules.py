"""Cache rules with their usage, drafts, imports, and which rule answers.

Below ``/entrepot/v1/``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from entrepot.core.permitted_identifiers import EVERY_IDENTIFIER, PermittedIdentifiers
from entrepot.core.rule_import import ImportRefused, ImportResult, restrict_identifiers
from entrepot.core.rules import RuleDraft
from entrepot.engine.api_models import checked_rule_model, import_plan_model
from entrepot.engine.etags import Revisions
from entrepot.engine.rules import RuleService
from entrepot.errors import RequestInvalid
from entrepot.server.request_body import read_body
from entrepot.server.responses import json_response, listing_response
from entrepot.server.routes import QuestionRoute, resource_route


class RuleDraftBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A cache rule as far as it is written."""

    name: str | None = None
    source_repository: str | None = None
    target_repository: str | None = None
    credential_set: str | None = None
    freshness: str | float | None = None
    readers: tuple[str, ...] = ()
    anonymous: bool | None = None

    @property
    def draft(self) -> RuleDraft:
        """As a person types it."""
        return RuleDraft(
            self.name,
            self.source_repository,
            self.target_repository,
            self.credential_set,
            self.freshness,
            self.readers,
            self.anonymous,
        )


class RuleChangesBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What is to change of a cache rule. What is not there stays."""

    credential_set: str | msgspec.UnsetType | None = msgspec.UNSET
    freshness: str | float | msgspec.UnsetType | None = msgspec.UNSET
    readers: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    anonymous: bool | msgspec.UnsetType | None = msgspec.UNSET


class ImportBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Rules and credential sets as TOML."""

    text: str


class RuleEndpoints:
    """*identifiers* are the secret identifiers that may be imported."""

    def __init__(
        self, rules: RuleService, revisions: Revisions, identifiers: PermittedIdentifiers
    ) -> None:
        self._rules = rules
        self._revisions = revisions
        self._identifiers = identifiers

    def routes(self) -> Sequence[BaseRoute]:
        """The routes of cache rules."""
        return [
            resource_route("/entrepot/v1/rules", GET=self.list, POST=self.create),
            resource_route("/entrepot/v1/rules/{name}", GET=self.get, PATCH=self.update),
            Route("/entrepot/v1/rules/{name}/plan", self.preview_delete),
            Route("/entrepot/v1/match", self.match),
            Route("/entrepot/v1/imports", self.apply_import, methods=["POST"]),
            QuestionRoute("/entrepot/v1/checks/import", self.preview_import),
            QuestionRoute("/entrepot/v1/checks/cacheRule", self.validate),
        ]

    async def list(self, request: Request) -> Response:
        """``GET /entrepot/v1/rules``"""
        return await listing_response(request, self._revisions.rules, self._rules.list)

    async def get(self, request: Request) -> Response:
        """``GET /entrepot/v1/rules/{name}``"""
        return json_response(await self._rules.get(request.path_params["name"]))

    async def create(self, request: Request) -> Response:
        """``POST /entrepot/v1/rules``"""
        rule = await self._rules.create((await _rule_body(request)).draft)
        return json_response(await self._rules.get(rule.name), status=201)

    async def update(self, request: Request) -> Response:
        """``PATCH /entrepot/v1/rules/{name}``"""
        body = await read_body(request, RuleChangesBody, hint='Send {"readers": ["ci", "@ops"]}.')
        name = request.path_params["name"]
        if body != RuleChangesBody():
            await self._rules.update(
                name,
                body.credential_set,
                freshness=body.freshness,
                readers=body.readers,
                anonymous=body.anonymous,
            )
        return json_response(await self._rules.get(name))

    async def preview_delete(self, request: Request) -> Response:
        """``GET /entrepot/v1/rules/{name}/plan``"""
        return json_response(await self._rules.preview_delete(request.path_params["name"]))

    async def validate(self, request: Request) -> Response:
        """``POST /entrepot/v1/checks/cacheRule``"""
        draft = (await _rule_body(request)).draft
        return json_response(checked_rule_model(await self._rules.validate(draft)))

    async def match(self, request: Request) -> Response:
        """``GET /entrepot/v1/match?image=library/nginx:1.27``"""
        image = request.query_params.get("image", "").strip()
        if not image:
            raise RequestInvalid(
                "The image is missing.", "Add it: ?image=library/nginx:1.27", field="image"
            )
        return json_response(await self._rules.match(image))

    async def preview_import(self, request: Request) -> Response:
        """``POST /entrepot/v1/checks/import``"""
        return json_response(import_plan_model(await self._preview(await _import_text(request))))

    async def apply_import(self, request: Request) -> Response:
        """``POST /entrepot/v1/imports``"""
        text = await _import_text(request)
        if self._identifiers is not EVERY_IDENTIFIER:
            result = await self._preview(text)
            if not result.possible:
                raise ImportRefused(result)
        return json_response(import_plan_model(await self._rules.apply_import(text), applied=True))

    async def _preview(self, text: str) -> ImportResult:
        return await asyncio.to_thread(
            restrict_identifiers, await self._rules.preview_import(text), self._identifiers
        )


async def _rule_body(request: Request) -> RuleDraftBody:
    return await read_body(request, RuleDraftBody)


async def _import_text(request: Request) -> str:
    return (await read_body(request, ImportBody, hint='Send {"text": "[[rules]] …"}.')).text
