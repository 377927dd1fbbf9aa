"""How dashboard, CLI and scripts speak to a running engine: `CacheClient`, over its Unix socket.

::

    ClientError
    ├── EngineUnreachable      no engine answers
    ├── EngineRefused          the engine said no, in its own words
    └── EngineAnswerInvalid    what answers is no engine, or one of another version
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from entrepot.snapshots import (
    CheckedCredentialSet,
    CheckedRule,
    CredentialSetSnapshot,
    EngineStatus,
    Event,
    EvictionSnapshot,
    Examination,
    PullSnapshot,
    RefreshedTag,
    RepositoryDetail,
    RepositorySnapshot,
    RuleSnapshot,
    UpstreamSnapshot,
)

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
"""Seconds that the engine may take: it asks the source of nobody while it answers here, but it may be busy."""

EVICTING = httpx.Timeout(600.0, connect=5.0)
"""Seconds that an eviction may take: to remove many large files takes a while on a slow disk."""

ASKING = httpx.Timeout(120.0, connect=5.0)
"""Seconds that it may take to ask a source that is slow."""

SIGNING_IN = httpx.Timeout(300.0, connect=5.0)
"""Seconds that a sign-in may take: the store of the secrets and the source registry may both be slow, and each is asked again."""

EXAMINING = httpx.Timeout(1800.0, connect=5.0)
"""Seconds that an examination may take: silent sources take a minute each, and many rules need many questions."""

WATCH_INTERVAL = 0.25
"""Seconds between two looks at a pull."""

_REGISTRY = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local/providers/Microsoft.ContainerRegistry/registries/entrepot"

T = TypeVar("T")


class ClientError(Exception):
    """Something that the user of a client should hear about; ``message`` says what happened and what to do."""

    code: ClassVar[str] = "ClientError"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class EngineUnreachable(ClientError):
    """No engine answers on the socket."""

    code = "EngineUnreachable"


class EngineAnswerInvalid(ClientError):
    """What answers on the socket is no engine, or one of another version."""

    code = "EngineAnswerInvalid"


class EngineRefused(ClientError):
    """The engine said no. *code* is ACR's or ours, *field* the field that caused it, *status* that of HTTP."""

    def __init__(self, code: str, message: str, *, field: str | None, status: int) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]
        self.field = field
        self.status = status


class _Error(msgspec.Struct):
    code: str
    message: str
    target: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error


class CacheClient:
    """The one way to a running engine. Use it as ``async with``. Every method raises a `ClientError` of the kind that fits."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @classmethod
    def at(cls, socket: Path) -> CacheClient:
        """A client of the engine that answers on a Unix socket."""
        # No TLS is spoken on the socket, and to read the certificates for it would take longer than most answers.
        transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False)
        return cls(httpx.AsyncClient(transport=transport, base_url="http://entrepot", timeout=TIMEOUT))

    @classmethod
    def of_app(cls, app: Any) -> CacheClient:
        """A client of an engine in the same process: its management application, an ASGI callable."""
        return cls(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://entrepot", timeout=TIMEOUT))

    async def __aenter__(self) -> CacheClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    # The whole

    async def status(self) -> EngineStatus:
        """The engine in one look."""
        return await self._get("/entrepot/v1/status", EngineStatus)

    async def upstreams(self) -> list[UpstreamSnapshot]:
        """The source registries that rules may pull from."""
        return await self._get("/entrepot/v1/upstreams", list[UpstreamSnapshot])

    async def stop(self) -> None:
        """Ask the engine to end."""
        await self._send("POST", "/entrepot/v1/stop")

    async def examine(self, rule: str | None = None) -> Examination:
        """Look at all that the rules need of their sources and of the engine's machine, or one rule."""
        path = "/entrepot/v1/doctor" + (f"?rule={quote(rule, safe='')}" if rule is not None else "")
        return _decoded(await self._send("POST", path, patience=EXAMINING), Examination)

    async def recent_events(self) -> list[Event]:
        """The last events, oldest first."""
        return await self._get("/entrepot/v1/events?recent=1", list[Event])

    async def events(self) -> AsyncIterator[Event]:
        """What happens from now on, until the engine ends."""
        try:
            async with self._http.stream("GET", "/entrepot/v1/events", timeout=httpx.Timeout(60.0, connect=5.0)) as response:
                if not response.is_success:
                    raise _refused(await response.aread(), response.status_code)
                async for line in _lines(response):
                    if line.startswith(b"data: "):
                        yield _decoded(line[6:], Event)
        except httpx.RemoteProtocolError:
            return
        except httpx.TransportError as error:
            raise _unreachable() from error

    # Cache rules

    async def rules(self) -> list[RuleSnapshot]:
        """All cache rules, by name."""
        return await self._get("/entrepot/v1/rules", list[RuleSnapshot])

    async def rule(self, name: str) -> RuleSnapshot:
        """One cache rule, its name without regard to case."""
        await self._send("GET", _resource("cacheRules", name))
        return next(each for each in await self.rules() if each.name.casefold() == name.casefold())

    async def create_rule(
        self, name: str, source_repository: str, target_repository: str, credential_set: str | None = None, freshness: str | None = None
    ) -> None:
        """Make a cache rule; refused when one of that name is there. *freshness*: ``always``, ``never``, ``10 min``; None: as the settings say."""
        properties: dict[str, Any] = {"sourceRepository": source_repository, "targetRepository": target_repository}
        if credential_set is not None:
            properties["credentialSetResourceId"] = _resource("credentialSets", credential_set)
        if freshness is not None:
            properties["freshness"] = freshness
        await self._send("PUT", _resource("cacheRules", name), {"properties": properties}, must_be_new=True)

    async def update_rule(
        self, name: str, credential_set: str | msgspec.UnsetType | None = msgspec.UNSET, *, freshness: str | msgspec.UnsetType | None = msgspec.UNSET
    ) -> None:
        """Give a cache rule another credential set, or none, and another freshness, or that of the settings; what is not named stays."""
        properties: dict[str, Any] = {}
        if credential_set is not msgspec.UNSET:
            properties["credentialSetResourceId"] = _resource("credentialSets", credential_set) if credential_set is not None else None
        if freshness is not msgspec.UNSET:
            properties["freshness"] = freshness
        await self._send("PATCH", _resource("cacheRules", name), {"properties": properties})

    async def delete_rule(self, name: str) -> None:
        """Delete a cache rule; what it cached stays."""
        await self._send("GET", _resource("cacheRules", name))
        await self._send("DELETE", _resource("cacheRules", name))

    async def check_rule(
        self,
        name: str | None = None,
        source_repository: str | None = None,
        target_repository: str | None = None,
        credential_set: str | None = None,
        freshness: str | None = None,
    ) -> CheckedRule:
        """What is wrong with a cache rule that does not exist yet. What is None is not judged; an empty credential set says that there shall be none."""
        asked = {
            "name": name,
            "sourceRepository": source_repository,
            "targetRepository": target_repository,
            "credentialSet": credential_set,
            "freshness": freshness,
        }
        return _decoded(await self._send("POST", "/entrepot/v1/checks/cacheRule", asked), CheckedRule)

    # Credential sets

    async def credential_sets(self) -> list[CredentialSetSnapshot]:
        """All credential sets, by name, with their health."""
        return await self._get("/entrepot/v1/credentialSets", list[CredentialSetSnapshot])

    async def credential_set(self, name: str) -> CredentialSetSnapshot:
        """One credential set, its name without regard to case."""
        await self._send("GET", _resource("credentialSets", name))
        return next(each for each in await self.credential_sets() if each.name.casefold() == name.casefold())

    async def create_credential_set(self, name: str, login_server: str, username_id: str, password_id: str) -> None:
        """Make a credential set; refused when one of that name is there."""
        body = {"properties": {"loginServer": login_server, "authCredentials": [_credential(username_id, password_id)]}}
        await self._send("PUT", _resource("credentialSets", name), body, must_be_new=True)

    async def update_credential_set(self, name: str, username_id: str | None = None, password_id: str | None = None) -> None:
        """Change where the secrets of a credential set are kept; None leaves one as it is."""
        await self._send("PATCH", _resource("credentialSets", name), {"properties": {"authCredentials": [_credential(username_id, password_id)]}})

    async def delete_credential_set(self, name: str) -> None:
        """Delete a credential set that no rule uses."""
        await self._send("GET", _resource("credentialSets", name))
        await self._send("DELETE", _resource("credentialSets", name))

    async def check_credential_set(
        self, name: str | None = None, login_server: str | None = None, username_id: str | None = None, password_id: str | None = None
    ) -> CheckedCredentialSet:
        """What is wrong with a credential set that does not exist yet. What is None is not judged."""
        asked = {"name": name, "loginServer": login_server, "usernameId": username_id, "passwordId": password_id}
        return _decoded(await self._send("POST", "/entrepot/v1/checks/credentialSet", asked), CheckedCredentialSet)

    async def check_sign_in(self, name: str) -> CredentialSetSnapshot:
        """Really sign in with a credential set: how it went is its health."""
        path = f"/entrepot/v1/credentialSets/{quote(name, safe='')}/check"
        return _decoded(await self._send("POST", path, patience=SIGNING_IN), CredentialSetSnapshot)

    # Cached repositories

    async def repositories(self) -> list[RepositorySnapshot]:
        """All cached repositories, by name."""
        return await self._get("/entrepot/v1/repositories", list[RepositorySnapshot])

    async def repository(self, name: str) -> RepositoryDetail:
        """A cached repository with its tags."""
        return await self._get(f"/entrepot/v1/repositories/{quote(name)}", RepositoryDetail)

    async def delete_repository(self, name: str) -> None:
        """Delete a cached repository with all that only it holds."""
        await self._send("DELETE", f"/acr/v1/{quote(name)}")

    async def delete_tag(self, repository: str, tag: str) -> None:
        """Forget a tag; the next pull fetches it again."""
        await self._send("DELETE", f"/acr/v1/{quote(repository)}/_tags/{quote(tag, safe='')}")

    async def lock(self, repository: str, tag: str | None = None, digest: str | None = None) -> None:
        """Keep a repository, one of its tags or one of its manifests from eviction and deletion, with all that it needs."""
        await self._send("PATCH", _cached(repository, tag, digest), {"deleteEnabled": False})

    async def unlock(self, repository: str, tag: str | None = None, digest: str | None = None) -> None:
        """Take a lock away; the others stay."""
        await self._send("PATCH", _cached(repository, tag, digest), {"deleteEnabled": True})

    async def evict(self, *, dry_run: bool = False, target: int | None = None) -> EvictionSnapshot:
        """Evict the images used least recently until at most *target* bytes are held (None: the low-water mark of the settings), or only say which."""
        asked = {"dryRun": dry_run, "target": target}
        return _decoded(await self._send("POST", "/entrepot/v1/evict", asked, patience=EVICTING), EvictionSnapshot)

    # Pulls

    async def pulls(self) -> list[PullSnapshot]:
        """The pulls under way and those that ended lately, newest first."""
        return await self._get("/entrepot/v1/pulls", list[PullSnapshot])

    async def pull(self, id: str) -> PullSnapshot:
        """One pull."""
        return await self._get(f"/entrepot/v1/pulls/{quote(id, safe='')}", PullSnapshot)

    async def start_pull(self, image: str, platform: str | None = None, asked_by: str = "cli") -> PullSnapshot:
        """Begin a pull of ``library/nginx:1.27``, for the platform of the engine's machine unless another is named."""
        asked = {"image": image, "platform": platform, "askedBy": asked_by}
        return _decoded(await self._send("POST", "/entrepot/v1/pulls", asked), PullSnapshot)

    async def refresh(self, image: str) -> RefreshedTag:
        """Ask the source where a tag points now, however fresh it is. Of what moved only the manifest is fetched."""
        return _decoded(await self._send("POST", "/entrepot/v1/refresh", {"image": image}, patience=ASKING), RefreshedTag)

    async def cancel_pull(self, id: str) -> PullSnapshot:
        """Stop a pull."""
        return _decoded(await self._send("DELETE", f"/entrepot/v1/pulls/{quote(id, safe='')}"), PullSnapshot)

    async def watch_pull(self, id: str, *, interval: float = WATCH_INTERVAL) -> AsyncIterator[PullSnapshot]:
        """A pull again and again, every *interval* seconds, until it has ended."""
        while True:
            pull = await self.pull(id)
            yield pull
            if pull.state.ended:
                return
            await asyncio.sleep(interval)

    # The wire

    async def _get(self, path: str, kind: type[T]) -> T:
        return _decoded(await self._send("GET", path), kind)

    async def _send(self, method: str, path: str, body: object = None, *, must_be_new: bool = False, patience: httpx.Timeout = TIMEOUT) -> bytes:
        headers = {"If-None-Match": "*"} if must_be_new else {}
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
        try:
            response = await self._http.request(method, path, content=content, headers=headers, timeout=patience)
        except httpx.ReadTimeout as error:
            raise EngineUnreachable(
                "The engine took the question but does not answer.",
            ) from error
        except (httpx.TransportError, OSError) as error:
            raise _unreachable() from error
        if response.is_success:
            return response.content
        raise _refused(response.content, response.status_code)


def _unreachable() -> EngineUnreachable:
    return EngineUnreachable("No engine is running. Start one with: entrepot serve")


def _refused(content: bytes, status: int) -> EngineRefused:
    told = _decoded(content, _ErrorBody).error
    return EngineRefused(told.code, told.message, field=told.target, status=status)


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """The whole lines of a stream. httpx would also break them at characters that may stand unescaped in JSON, such as U+2028."""
    left = b""
    async for chunk in response.aiter_bytes():
        *whole, left = (left + chunk).split(b"\n")
        for line in whole:
            yield line


def _decoded(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise _odd(content) from error


def _odd(content: bytes) -> EngineAnswerInvalid:
    shown = content[:60].decode("utf-8", "replace")
    return EngineAnswerInvalid(f"What answers is no engine, or one of another version: {shown!r}. Stop it, and start this one with: entrepot serve")


def _cached(repository: str, tag: str | None, digest: str | None) -> str:
    path = f"/acr/v1/{quote(repository)}"
    if digest is not None:
        return f"{path}/_manifests/{quote(digest, safe='')}"
    return path if tag is None else f"{path}/_tags/{quote(tag, safe='')}"


def _resource(collection: str, name: str) -> str:
    return f"{_REGISTRY}/{collection}/{quote(name, safe='')}"


def _credential(username_id: str | None, password_id: str | None) -> dict[str, str]:
    told = {"name": "Credential1", "usernameSecretIdentifier": username_id, "passwordSecretIdentifier": password_id}
    return {name: value for name, value in told.items() if value is not None}
