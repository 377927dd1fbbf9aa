"""Cache rules and credential sets in the shape of ACR's management API, so that what is written for
ACR feels at home.

Everything is done when the answer is sent: ``provisioningState`` is always ``Succeeded`` and no
operation has to be polled. Subscription, resource group and registry may have any name; ids are
built from those of the request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from entrepot.api.models import CredentialSetSnapshot
from entrepot.core.credentials import (
    CredentialHealth,
    CredentialSet,
    CredentialSetDraft,
    CredentialSetNameTaken,
)
from entrepot.core.permitted_identifiers import (
    EVERY_IDENTIFIER,
    PermittedIdentifiers,
    SecretKindNotAllowed,
)
from entrepot.core.rule_import import ImportRefused, restrict_identifiers
from entrepot.core.rules import CacheRule, CacheRuleImmutable, CacheRuleNameTaken, RuleDraft
from entrepot.core.secret_identifiers import SecretIdentifier, SecretIdentifierInvalid
from entrepot.core.states import HealthStatus
from entrepot.engine.api_models import (
    checked_credential_set_model,
    checked_rule_model,
    import_plan_model,
)
from entrepot.engine.engine import Engine
from entrepot.errors import EntrepotError, Locked, NotFound, Refusal, RequestInvalid
from entrepot.formatting import printable
from entrepot.httpd.server import Disconnected
from entrepot.server.acr.registries import (
    METADATA_PATHS,
    NAME,
    PROVIDER,
    RESOURCE_GROUP,
    matching_resources,
    metadata_document,
    registry_document,
)

BODY_LIMIT = 1024 * 1024
"""The largest body of a request, in bytes."""

DATA_API = "/acr/v1/"
"""Where ACR's data API is, whose errors have another shape than those of ARM."""

DELETED_HEADER = "Entrepot-Deleted"
"""Whether a DELETE deleted something: 1, or 0 when there was nothing of that name. ACR's clients
take 204 for both."""

_SUBSCRIPTION = "/subscriptions/{s}"
_REGISTRIES = f"{_SUBSCRIPTION}/resourceGroups/{{g}}/providers/{PROVIDER}/registries"
_BASE = f"{_REGISTRIES}/{{r}}"

_log = logging.getLogger("entrepot.management")

Body = TypeVar("Body")
Found = TypeVar("Found")


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


class _RuleCheck(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    name: str | None = None
    source_repository: str | None = None
    target_repository: str | None = None
    credential_set: str | None = None
    freshness: str | float | None = None


class _SignInTry(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body of a request to sign in once, with what a credential set would say."""

    name: str
    login_server: str
    username_id: str
    password_id: str


class _SetCheck(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    name: str | None = None
    login_server: str | None = None
    username_id: str | None = None
    password_id: str | None = None


_IMPORT_HINT = 'Send {"text": "[[rules]] …"}.'


class _Import(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    text: str


def routes(engine: Engine, identifiers: PermittedIdentifiers = EVERY_IDENTIFIER) -> list[BaseRoute]:
    """Cache rules and credential sets: ACR's resources, our own listings, and checks of what does
    not exist yet.

    *identifiers* are the secret identifiers that may be made or tried through them.
    """

    async def refused_identifiers(draft: CredentialSetDraft) -> list[Refusal]:
        """What is not permitted of a draft. What a set for the same login server has already is
        nothing new; what is no identifier is judged elsewhere."""
        login_server = (draft.login_server or "").strip().lower()
        same = [
            each for each in engine.documents.credential_sets if each.login_server == login_server
        ]
        refusals: list[Refusal] = []
        for text, known, field in (
            (draft.username_id, {each.username for each in same}, "usernameSecretIdentifier"),
            (draft.password_id, {each.password for each in same}, "passwordSecretIdentifier"),
        ):
            try:
                identifier = SecretIdentifier.parse(text or "", field=field)
                if identifier not in known:
                    await asyncio.to_thread(identifiers.check, identifier, field=field)
            except SecretKindNotAllowed as refusal:
                refusals.append(refusal)
            except SecretIdentifierInvalid:
                continue
        return refusals

    async def require_permitted(draft: CredentialSetDraft) -> None:
        for refusal in await refused_identifiers(draft):
            raise refusal

    async def list_rules(request: Request) -> Response:
        return json_response(
            {"value": [_rule_resource(request, each) for each in engine.documents.rules]}
        )

    async def show_rule(request: Request) -> Response:
        return json_response(_rule_resource(request, engine.documents.rules.get(_name(request))))

    async def put_rule(request: Request) -> Response:
        body = (await read_body(request, _RuleBody)).properties
        name = _name(request)
        existing = _existing(lambda: engine.documents.rules.get(name))
        if existing is not None:
            if _must_be_new(request):
                raise CacheRuleNameTaken(
                    f"There is a cache rule {existing.name} already.",
                    "Choose another name.",
                    field="name",
                )
            return json_response(_rule_resource(request, await _change_rule(existing, body)))
        freshness = None if body.freshness is msgspec.UNSET else body.freshness
        draft = RuleDraft(
            name,
            body.source_repository,
            body.target_repository,
            _set_name(body.credential_set_resource_id),
            freshness,
        )
        return json_response(_rule_resource(request, await engine.rules.create(draft)), status=201)

    async def patch_rule(request: Request) -> Response:
        body = (await read_body(request, _RuleBody)).properties
        return json_response(
            _rule_resource(
                request, await _change_rule(engine.documents.rules.get(_name(request)), body)
            )
        )

    async def _change_rule(rule: CacheRule, body: _RuleProperties) -> CacheRule:
        engine.documents.rules.check_immutable(
            rule.name,
            source_repository=body.source_repository,
            target_repository=body.target_repository,
        )
        given = body.credential_set_resource_id
        if given is msgspec.UNSET and body.freshness is msgspec.UNSET:
            return rule
        return await engine.rules.update(
            rule.name,
            msgspec.UNSET if given is msgspec.UNSET else _set_name(given),
            freshness=body.freshness,
        )

    async def delete_rule(request: Request) -> Response:
        rule = _existing(lambda: engine.documents.rules.get(_name(request)))
        if rule is not None:
            await engine.rules.delete(rule.name)
        return _deletion_response(was_there=rule is not None)

    async def list_sets(request: Request) -> Response:
        return json_response(
            {
                "value": [
                    _set_resource(request, each, engine.credential_sets.health(each.name))
                    for each in engine.documents.credential_sets
                ]
            }
        )

    async def show_set(request: Request) -> Response:
        found = engine.documents.credential_sets.get(_name(request))
        return json_response(
            _set_resource(request, found, engine.credential_sets.health(found.name))
        )

    async def put_set(request: Request) -> Response:
        body = (await read_body(request, _SetBody)).properties
        name = _name(request)
        existing = _existing(lambda: engine.documents.credential_sets.get(name))
        if existing is not None:
            if _must_be_new(request):
                raise CredentialSetNameTaken(
                    f"There is a credential set {existing.name} already.",
                    "Choose another name.",
                    field="name",
                )
            return json_response(await _change_set(request, existing, body))
        username_id, password_id = _identifiers(body)
        draft = CredentialSetDraft(name, body.login_server, username_id, password_id)
        await require_permitted(draft)
        made = await engine.credential_sets.create(draft)
        return json_response(
            _set_resource(request, made, engine.credential_sets.health(made.name)), status=201
        )

    async def patch_set(request: Request) -> Response:
        body = (await read_body(request, _SetBody)).properties
        return json_response(
            await _change_set(request, engine.documents.credential_sets.get(_name(request)), body)
        )

    async def _change_set(
        request: Request, existing: CredentialSet, body: _SetProperties
    ) -> dict[str, Any]:
        if (
            body.login_server is not None
            and body.login_server.strip().lower() != existing.login_server
        ):
            raise CacheRuleImmutable(
                f"The login server of {existing.name} is {existing.login_server} and can't become {body.login_server}.",
                "Delete the credential set and create another.",
                field="loginServer",
            )
        username_id, password_id = _identifiers(body)
        await require_permitted(
            CredentialSetDraft(existing.name, existing.login_server, username_id, password_id)
        )
        changed = await engine.credential_sets.update(
            existing.name, username_id=username_id, password_id=password_id
        )
        return _set_resource(request, changed, engine.credential_sets.health(changed.name))

    async def delete_set(request: Request) -> Response:
        found = _existing(lambda: engine.documents.credential_sets.get(_name(request)))
        if found is not None:
            await engine.credential_sets.delete(found.name)
        return _deletion_response(was_there=found is not None)

    async def rule_snapshots(request: Request) -> Response:
        return await listing(request, engine.revisions.rules, engine.rules.list)

    async def set_snapshots(request: Request) -> Response:
        async def told() -> Sequence[CredentialSetSnapshot]:
            return engine.credential_sets.list()

        return await listing(request, engine.revisions.credential_sets, told)

    async def rule_snapshot(request: Request) -> Response:
        return json_response(await engine.rules.get(_name(request)))

    async def set_snapshot(request: Request) -> Response:
        return json_response(engine.credential_sets.get(_name(request)))

    async def check_rule(request: Request) -> Response:
        asked = await read_body(request, _RuleCheck)
        return json_response(
            checked_rule_model(
                await engine.rules.validate(
                    RuleDraft(
                        asked.name,
                        asked.source_repository,
                        asked.target_repository,
                        asked.credential_set,
                        asked.freshness,
                    )
                )
            )
        )

    async def rule_plan(request: Request) -> Response:
        return json_response(await engine.rules.preview_delete(_name(request)))

    async def set_plan(request: Request) -> Response:
        return json_response(engine.credential_sets.preview_delete(_name(request)))

    async def check_import(request: Request) -> Response:
        text = (await read_body(request, _Import, hint=_IMPORT_HINT)).text
        result = await asyncio.to_thread(
            restrict_identifiers, await engine.rules.preview_import(text), identifiers
        )
        return json_response(import_plan_model(result))

    async def bring_in(request: Request) -> Response:
        text = (await read_body(request, _Import, hint=_IMPORT_HINT)).text
        if identifiers is not EVERY_IDENTIFIER:
            result = await asyncio.to_thread(
                restrict_identifiers, await engine.rules.preview_import(text), identifiers
            )
            if not result.possible:
                raise ImportRefused(result)
        return json_response(import_plan_model(await engine.rules.apply_import(text), applied=True))

    async def match(request: Request) -> Response:
        image = request.query_params.get("image", "").strip()
        if not image:
            raise RequestInvalid(
                "The image is missing.", "Add it: ?image=library/nginx:1.27", field="image"
            )
        return json_response(await engine.rules.match(image))

    async def check_set(request: Request) -> Response:
        asked = await read_body(request, _SetCheck)
        draft = CredentialSetDraft(
            asked.name, asked.login_server, asked.username_id, asked.password_id
        )
        verdict = engine.credential_sets.validate(draft)
        return json_response(
            checked_credential_set_model(verdict, await refused_identifiers(draft))
        )

    async def try_sign_in(request: Request) -> Response:
        hint = 'Send {"name": "hub-login", "loginServer": "docker.io", "usernameId": "env:USER", "passwordId": "env:TOKEN"}.'
        asked = await read_body(request, _SignInTry, hint=hint)
        draft = CredentialSetDraft(
            asked.name, asked.login_server, asked.username_id, asked.password_id
        )
        await require_permitted(draft)
        return json_response(await engine.credential_sets.test_sign_in(draft))

    async def show_registry(request: Request) -> Response:
        p = request.path_params
        return json_response(registry_document(p["s"], p["g"], p["r"], login_server=engine.address))

    async def list_registries(request: Request) -> Response:
        p = request.path_params
        group = p.get("g", RESOURCE_GROUP)
        only = registry_document(p["s"], group, NAME, login_server=engine.address)
        return json_response({"value": [only]})

    async def list_resources(request: Request) -> Response:
        odata_filter = request.query_params.get("$filter", "")
        return json_response({"value": matching_resources(request.path_params["s"], odata_filter)})

    async def metadata(request: Request) -> Response:
        # Its addresses are those of this request. Starlette fails to make a URL of an odd Host.
        address = f"{request.scope['scheme']}://{printable(request.headers.get('host', ''), 255)}"
        return json_response(metadata_document(address), headers={"Cache-Control": "no-store"})

    rules, sets = f"{_BASE}/cacheRules", f"{_BASE}/credentialSets"
    return [
        *(Route(path, metadata) for path in METADATA_PATHS),
        Route(f"{_SUBSCRIPTION}/resources", list_resources),
        Route(f"{_SUBSCRIPTION}/providers/{PROVIDER}/registries", list_registries),
        Route(_REGISTRIES, list_registries),
        Route(_BASE, show_registry),
        Route(rules, list_rules),
        resource(
            f"{rules}/{{name}}", GET=show_rule, PUT=put_rule, PATCH=patch_rule, DELETE=delete_rule
        ),
        Route(sets, list_sets),
        resource(f"{sets}/{{name}}", GET=show_set, PUT=put_set, PATCH=patch_set, DELETE=delete_set),
        Route("/entrepot/v1/rules", rule_snapshots),
        Route("/entrepot/v1/credentialSets", set_snapshots),
        Route("/entrepot/v1/rules/{name}", rule_snapshot),
        Route("/entrepot/v1/credentialSets/{name}", set_snapshot),
        Route("/entrepot/v1/rules/{name}/plan", rule_plan),
        Route("/entrepot/v1/credentialSets/{name}/plan", set_plan),
        Route("/entrepot/v1/match", match),
        Route("/entrepot/v1/imports", bring_in, methods=["POST"]),
        Route("/entrepot/v1/checks/import", check_import, methods=["POST"]),
        Route("/entrepot/v1/checks/cacheRule", check_rule, methods=["POST"]),
        Route("/entrepot/v1/checks/credentialSet", check_set, methods=["POST"]),
        # Not one of the checks: it reads secrets, and may run a program for it, which whoever may
        # only read must not have done.
        Route("/entrepot/v1/signIn", try_sign_in, methods=["POST"]),
    ]


def resource(path: str, **methods: Callable[[Request], Awaitable[Response]]) -> BaseRoute:
    """One route for all methods of a resource, so that a method that it does not have gets 405."""

    async def endpoint(request: Request) -> Response:
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, endpoint, methods=list(methods))


def exception_handlers() -> Mapping[Any, Callable[[Request, Any], Awaitable[Response]]]:
    """How errors are answered: see `error_response`."""

    async def refused(request: Request, error: EntrepotError) -> Response:
        return error_response(error, request.scope["path"])

    async def odd(request: Request, error: HTTPException) -> Response:
        path = request.scope["path"]
        if error.status_code == 404:
            return _error(
                path, 404, "NotFound", f"There is nothing at {path}.", data_code="NAME_UNKNOWN"
            )
        code = "MethodNotAllowed" if error.status_code == 405 else "BadRequest"
        return _error(
            path,
            error.status_code,
            code,
            f"{path}: {error.detail}.",
            data_code="UNSUPPORTED",
            headers=error.headers,
        )

    async def unforeseen(request: Request, error: Exception) -> Response:
        if isinstance(error, (ClientDisconnect, Disconnected)):
            # No failure (F92, F93). Only a client whose body did not come in time is still there to
            # read this.
            return _error(
                request.scope["path"],
                408,
                "RequestTimeout",
                "The body of the request did not come in time.",
            )
        _log.error(
            "%s %s failed in an unforeseen way",
            request.method,
            printable(request.scope["path"], 200),
            exc_info=error,
        )
        return _error(
            request.scope["path"],
            500,
            "InternalError",
            "The engine failed in a way that it did not foresee. Its log has the details.",
        )

    return {EntrepotError: refused, HTTPException: odd, Exception: unforeseen}


async def listing(
    request: Request, revision: str, tell: Callable[[], Awaitable[object]]
) -> Response:
    """A listing that *tell* makes; 304, and it is not made, when the caller has that *revision* of
    it (``If-None-Match``)."""
    tag = f'"{revision}"'
    # The cache of a browser may keep it, but must ask.
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if tag in {
        each.strip().removeprefix("W/")
        for each in request.headers.get("if-none-match", "").split(",")
    }:
        return Response(status_code=304, headers=headers)
    return json_response(await tell(), headers=headers)


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON document."""
    return Response(
        msgspec.json.encode(value),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )


def error_response(error: EntrepotError, path: str) -> Response:
    """An error with the status that it has, in ARM's shape: ``{"error": {"code", "message",
    "target"}}``.

    Below ``/acr/v1/`` in that of ACR's data API too, which az and the SDKs read there: ``{"errors":
    [{"code", "message"}]}``. The other stays for programs that were written for earlier versions.
    """
    # Of a lock ACR's code is known, and is that of the data API.
    data_code = error.code if isinstance(error, Locked) else error.oci_code
    return _error(path, error.status, error.code, error.message, error.field, data_code=data_code)


def _error(
    path: str,
    status: int,
    code: str,
    message: str,
    target: str | None = None,
    *,
    data_code: str = "UNKNOWN",
    headers: Mapping[str, str] | None = None,
) -> Response:
    error = {"code": code, "message": message}
    if target is not None:
        error["target"] = target
    document: dict[str, object] = {"error": error}
    if path.startswith(DATA_API):
        entry = {"code": data_code, "message": message, "detail": {"code": code}}
        document["errors"] = [entry]
    return json_response(document, status=status, headers=headers)


async def read_body(
    request: Request,
    kind: type[Body],
    *,
    hint: str = "Send JSON in the shape of ACR's management API.",
) -> Body:
    """The JSON body of a request, of at most `BODY_LIMIT` bytes; raises `RequestInvalid` with
    *hint* when it is not what was expected."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > BODY_LIMIT:
            raise RequestInvalid(
                f"The body has more than {BODY_LIMIT:,} bytes.",
                "No rule and no credential set needs that much.",
            )
    try:
        return msgspec.json.decode(bytes(content), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        # ValueError: a number of more digits than Python reads.
        raise RequestInvalid(
            f"The body can't be read: {printable(str(error), 200)}.", hint
        ) from error


def _existing(get: Callable[[], Found]) -> Found | None:
    try:
        return get()
    except NotFound:
        return None


def _deletion_response(*, was_there: bool) -> Response:
    return Response(status_code=204, headers={DELETED_HEADER: "1" if was_there else "0"})


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


def _identifiers(body: _SetProperties) -> tuple[str | None, str | None]:
    if len(body.auth_credentials) > 1:
        raise RequestInvalid(
            "A credential set has one credential.", "Leave the others out.", field="authCredentials"
        )
    if not body.auth_credentials:
        return None, None
    return body.auth_credentials[0].username_secret_identifier, body.auth_credentials[
        0
    ].password_secret_identifier


def _id(request: Request, collection: str, name: str) -> str:
    p = request.path_params
    return f"/subscriptions/{p['s']}/resourceGroups/{p['g']}/providers/{PROVIDER}/registries/{p['r']}/{collection}/{name}"


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
    # ACR knows Healthy and Unhealthy. What was not yet tried is left out, as it leaves out what it
    # does not know.
    if health.status is not HealthStatus.UNKNOWN:
        told = {
            "status": health.status.value,
            "errorCode": health.error_code,
            "errorMessage": health.error_message,
        }
        credential["credentialHealth"] = {
            name: value for name, value in told.items() if value is not None
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
