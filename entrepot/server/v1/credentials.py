"""``/entrepot/v1/``: credential sets with their health, drafts, and real sign-ins."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from entrepot.api.models import CredentialSetSnapshot
from entrepot.core.credentials import CredentialSetDraft
from entrepot.engine.api_models import checked_credential_set_model
from entrepot.engine.credentials import CredentialService
from entrepot.engine.etags import Revisions
from entrepot.server.identifier_check import IdentifierCheck
from entrepot.server.request_body import read_body
from entrepot.server.responses import json_response, listing_response
from entrepot.server.routes import QuestionRoute


class CredentialSetDraftBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A credential set as far as it is written."""

    name: str | None = None
    login_server: str | None = None
    username_id: str | None = None
    password_id: str | None = None


class SignInBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What a credential set would say, to sign in with once."""

    name: str
    login_server: str
    username_id: str
    password_id: str


class CredentialSetEndpoints:
    """*identifiers* judges the secret identifiers of drafts."""

    def __init__(
        self, credential_sets: CredentialService, revisions: Revisions, identifiers: IdentifierCheck
    ) -> None:
        self._credential_sets = credential_sets
        self._revisions = revisions
        self._identifiers = identifiers

    def routes(self) -> Sequence[BaseRoute]:
        """The routes of credential sets."""
        return [
            Route("/entrepot/v1/credentialSets", self.list),
            Route("/entrepot/v1/credentialSets/{name}", self.get),
            Route("/entrepot/v1/credentialSets/{name}/plan", self.preview_delete),
            QuestionRoute("/entrepot/v1/credentialSets/{name}/check", self.verify),
            QuestionRoute("/entrepot/v1/checks/credentialSet", self.validate),
            # No question: it reads secrets and may run a program for it, which a client that may
            # only read must not cause.
            Route("/entrepot/v1/signIn", self.test_sign_in, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        """``GET /entrepot/v1/credentialSets``"""
        return await listing_response(request, self._revisions.credential_sets, self._load)

    async def _load(self) -> Sequence[CredentialSetSnapshot]:
        return self._credential_sets.list()

    async def get(self, request: Request) -> Response:
        """``GET /entrepot/v1/credentialSets/{name}``"""
        return json_response(self._credential_sets.get(request.path_params["name"]))

    async def preview_delete(self, request: Request) -> Response:
        """``GET /entrepot/v1/credentialSets/{name}/plan``"""
        return json_response(self._credential_sets.preview_delete(request.path_params["name"]))

    async def verify(self, request: Request) -> Response:
        """Sign in with a credential set.

        ``POST /entrepot/v1/credentialSets/{name}/check``.
        """
        return json_response(await self._credential_sets.verify(request.path_params["name"]))

    async def validate(self, request: Request) -> Response:
        """``POST /entrepot/v1/checks/credentialSet``"""
        body = await read_body(request, CredentialSetDraftBody)
        draft = CredentialSetDraft(body.name, body.login_server, body.username_id, body.password_id)
        verdict = self._credential_sets.validate(draft)
        return json_response(
            checked_credential_set_model(verdict, await self._identifiers.refusals(draft))
        )

    async def test_sign_in(self, request: Request) -> Response:
        """``POST /entrepot/v1/signIn``: sign in once with a draft of a credential set."""
        body = await read_body(
            request,
            SignInBody,
            hint='Send {"name": "hub-login", "loginServer": "docker.io", '
            '"usernameId": "env:USER", "passwordId": "env:TOKEN"}.',
        )
        draft = CredentialSetDraft(body.name, body.login_server, body.username_id, body.password_id)
        await self._identifiers.require(draft)
        return json_response(await self._credential_sets.test_sign_in(draft))
