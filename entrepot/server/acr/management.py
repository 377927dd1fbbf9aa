"""Cache rules and credential sets in the shape of ACR's management API.

It is for programs that are written for ACR.

Everything is done when the response is sent: ``provisioningState`` is always ``Succeeded`` and no
operation has to be polled. Subscription, resource group and registry may have any name; ids are
built from those of the request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from entrepot.core.credentials import (
    CredentialHealth,
    CredentialSet,
    CredentialSetDraft,
    CredentialSetNameTaken,
)
from entrepot.core.rules import CacheRule, CacheRuleImmutable, CacheRuleNameTaken, RuleDraft
from entrepot.core.states import HealthStatus
from entrepot.engine.credentials import CredentialService
from entrepot.engine.rules import RuleService
from entrepot.errors import NotFound, RequestInvalid
from entrepot.server.acr.registries import PROVIDER, REGISTRY_PATH, registry_id
from entrepot.server.identifier_check import IdentifierCheck
from entrepot.server.request_body import read_body
from entrepot.server.responses import deletion_response, json_response
from entrepot.server.routes import resource_route

Resource = TypeVar("Resource")


class _RuleProperties(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    source_repository: str | None = None
    target_repository: str | None = None
    credential_set_resource_id: str | msgspec.UnsetType | None = msgspec.UNSET
    freshness: str | float | msgspec.UnsetType | None = msgspec.UNSET
    """ACR has no such property."""
    creation_date: str | None = None
    provisioning_state: str | None = None


class _RuleBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    properties: _RuleProperties
    id: str | None = None
    name: str | None = None
    type: str | None = None
    identity: dict[str, Any] | None = None
    system_data: dict[str, Any] | None = None


class _AuthCredential(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    name: str = "Credential1"
    username_secret_identifier: str | None = None
    password_secret_identifier: str | None = None
    credential_health: dict[str, Any] | None = None


class _SetProperties(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    login_server: str | None = None
    auth_credentials: list[_AuthCredential] = []
    creation_date: str | None = None
    provisioning_state: str | None = None


class _SetBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    properties: _SetProperties
    id: str | None = None
    name: str | None = None
    type: str | None = None
    identity: dict[str, Any] | None = None
    system_data: dict[str, Any] | None = None


class CacheRuleResources:
    """Cache rules as ARM resources."""

    def __init__(self, rules: RuleService) -> None:
        self._rules = rules

    def routes(self) -> Sequence[BaseRoute]:
        """The routes of cache rules."""
        collection = f"{REGISTRY_PATH}/cacheRules"
        return [
            Route(collection, self.list),
            resource_route(
                f"{collection}/{{name}}",
                GET=self.get,
                PUT=self.put,
                PATCH=self.patch,
                DELETE=self.delete,
            ),
        ]

    async def list(self, request: Request) -> Response:
        """All cache rules."""
        return json_response(
            {"value": [_rule_resource(request, rule) for rule in self._rules.book]}
        )

    async def get(self, request: Request) -> Response:
        """One cache rule."""
        return json_response(_rule_resource(request, self._rules.book.get(_name(request))))

    async def put(self, request: Request) -> Response:
        """Create a cache rule, or change the one of that name."""
        properties = (await read_body(request, _RuleBody)).properties
        name = _name(request)
        existing = _existing(self._rules.book.get, name)
        if existing is not None:
            if _must_be_new(request):
                raise CacheRuleNameTaken(
                    f"There is a cache rule {existing.name} already.",
                    "Choose another name.",
                    field="name",
                )
            return json_response(_rule_resource(request, await self._change(existing, properties)))
        freshness = None if properties.freshness is msgspec.UNSET else properties.freshness
        draft = RuleDraft(
            name,
            properties.source_repository,
            properties.target_repository,
            _set_name(properties.credential_set_resource_id),
            freshness,
        )
        rule = await self._rules.create(draft)
        return json_response(_rule_resource(request, rule), status=201)

    async def patch(self, request: Request) -> Response:
        """Change a cache rule."""
        properties = (await read_body(request, _RuleBody)).properties
        rule = self._rules.book.get(_name(request))
        return json_response(_rule_resource(request, await self._change(rule, properties)))

    async def _change(self, rule: CacheRule, properties: _RuleProperties) -> CacheRule:
        self._rules.book.check_immutable(
            rule.name,
            source_repository=properties.source_repository,
            target_repository=properties.target_repository,
        )
        resource_id = properties.credential_set_resource_id
        if resource_id is msgspec.UNSET and properties.freshness is msgspec.UNSET:
            return rule
        return await self._rules.update(
            rule.name,
            msgspec.UNSET if resource_id is msgspec.UNSET else _set_name(resource_id),
            freshness=properties.freshness,
        )

    async def delete(self, request: Request) -> Response:
        """Delete a cache rule."""
        rule = _existing(self._rules.book.get, _name(request))
        if rule is not None:
            await self._rules.delete(rule.name)
        return deletion_response(was_there=rule is not None)


class CredentialSetResources:
    """Credential sets as ARM resources. *identifiers* judges what is written."""

    def __init__(self, credential_sets: CredentialService, identifiers: IdentifierCheck) -> None:
        self._credential_sets = credential_sets
        self._identifiers = identifiers

    def routes(self) -> Sequence[BaseRoute]:
        """The routes of credential sets."""
        collection = f"{REGISTRY_PATH}/credentialSets"
        return [
            Route(collection, self.list),
            resource_route(
                f"{collection}/{{name}}",
                GET=self.get,
                PUT=self.put,
                PATCH=self.patch,
                DELETE=self.delete,
            ),
        ]

    def _resource(self, request: Request, credential_set: CredentialSet) -> dict[str, Any]:
        return _set_resource(
            request, credential_set, self._credential_sets.health(credential_set.name)
        )

    async def list(self, request: Request) -> Response:
        """All credential sets."""
        sets = self._credential_sets.book
        return json_response(
            {"value": [self._resource(request, credential_set) for credential_set in sets]}
        )

    async def get(self, request: Request) -> Response:
        """One credential set."""
        credential_set = self._credential_sets.book.get(_name(request))
        return json_response(self._resource(request, credential_set))

    async def put(self, request: Request) -> Response:
        """Create a credential set, or change the one of that name."""
        properties = (await read_body(request, _SetBody)).properties
        name = _name(request)
        existing = _existing(self._credential_sets.book.get, name)
        if existing is not None:
            if _must_be_new(request):
                raise CredentialSetNameTaken(
                    f"There is a credential set {existing.name} already.",
                    "Choose another name.",
                    field="name",
                )
            return json_response(await self._change(request, existing, properties))
        username_id, password_id = _identifiers(properties)
        draft = CredentialSetDraft(name, properties.login_server, username_id, password_id)
        await self._identifiers.require(draft)
        credential_set = await self._credential_sets.create(draft)
        return json_response(self._resource(request, credential_set), status=201)

    async def patch(self, request: Request) -> Response:
        """Change a credential set."""
        properties = (await read_body(request, _SetBody)).properties
        credential_set = self._credential_sets.book.get(_name(request))
        return json_response(await self._change(request, credential_set, properties))

    async def _change(
        self, request: Request, existing: CredentialSet, properties: _SetProperties
    ) -> dict[str, Any]:
        login_server = properties.login_server
        if login_server is not None and login_server.strip().lower() != existing.login_server:
            raise CacheRuleImmutable(
                f"The login server of {existing.name} is {existing.login_server} and can't become "
                f"{login_server}.",
                "Delete the credential set and create another.",
                field="loginServer",
            )
        username_id, password_id = _identifiers(properties)
        await self._identifiers.require(
            CredentialSetDraft(existing.name, existing.login_server, username_id, password_id)
        )
        credential_set = await self._credential_sets.update(
            existing.name, username_id=username_id, password_id=password_id
        )
        return self._resource(request, credential_set)

    async def delete(self, request: Request) -> Response:
        """Delete a credential set."""
        credential_set = _existing(self._credential_sets.book.get, _name(request))
        if credential_set is not None:
            await self._credential_sets.delete(credential_set.name)
        return deletion_response(was_there=credential_set is not None)


def _existing(get: Callable[[str], Resource], name: str) -> Resource | None:
    try:
        return get(name)
    except NotFound:
        return None


def _name(request: Request) -> str:
    return str(request.path_params["name"])


def _must_be_new(request: Request) -> bool:
    return request.headers.get("if-none-match", "").strip() == "*"


def _set_name(resource_id: str | msgspec.UnsetType | None) -> str | None:
    """The name at the end of a credential set's resource id; a bare name will do."""
    if not resource_id:
        return None
    assert isinstance(resource_id, str)
    parts = resource_id.strip("/").split("/")
    if len(parts) > 1 and parts[-2].lower() != "credentialsets":
        raise RequestInvalid(
            f"{resource_id} is not the resource id of a credential set.",
            "It ends with /credentialSets/ and the name.",
            field="credentialSetResourceId",
        )
    return parts[-1]


def _identifiers(properties: _SetProperties) -> tuple[str | None, str | None]:
    if len(properties.auth_credentials) > 1:
        raise RequestInvalid(
            "A credential set has one credential.", "Leave the others out.", field="authCredentials"
        )
    if not properties.auth_credentials:
        return None, None
    [credential] = properties.auth_credentials
    return credential.username_secret_identifier, credential.password_secret_identifier


def _id(request: Request, collection: str, name: str) -> str:
    names = request.path_params
    registry = registry_id(names["s"], names["g"], names["r"])
    return f"{registry}/{collection}/{name}"


def _time(moment: datetime) -> str:
    return moment.isoformat()


def _rule_resource(request: Request, rule: CacheRule) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    if rule.credential_set is not None:
        properties["credentialSetResourceId"] = _id(request, "credentialSets", rule.credential_set)
    properties |= {
        "sourceRepository": str(rule.source),
        "targetRepository": str(rule.target),
        "creationDate": _time(rule.created),
        "provisioningState": "Succeeded",
    }
    if rule.freshness_text is not None:
        properties["freshness"] = rule.freshness_text
    return {
        "type": f"{PROVIDER}/registries/cacheRules",
        "id": _id(request, "cacheRules", rule.name),
        "name": rule.name,
        "properties": properties,
    }


def _set_resource(
    request: Request, credential_set: CredentialSet, health: CredentialHealth
) -> dict[str, Any]:
    credential: dict[str, Any] = {
        "name": "Credential1",
        "usernameSecretIdentifier": str(credential_set.username),
        "passwordSecretIdentifier": str(credential_set.password),
    }
    # ACR has Healthy and Unhealthy. What was not tried yet is left out, as it leaves out what it
    # does not know.
    if health.status is not HealthStatus.UNKNOWN:
        health_fields = {
            "status": health.status.value,
            "errorCode": health.error_code,
            "errorMessage": health.error_message,
        }
        credential["credentialHealth"] = {
            name: value for name, value in health_fields.items() if value is not None
        }
    return {
        "type": f"{PROVIDER}/registries/credentialSets",
        "identity": {
            "principalId": "00000000-0000-0000-0000-000000000000",
            "tenantId": "00000000-0000-0000-0000-000000000000",
            "type": "SystemAssigned",
        },
        "id": _id(request, "credentialSets", credential_set.name),
        "name": credential_set.name,
        "properties": {
            "loginServer": credential_set.login_server,
            "authCredentials": [credential],
            "creationDate": _time(credential_set.created),
            "provisioningState": "Succeeded",
        },
    }
