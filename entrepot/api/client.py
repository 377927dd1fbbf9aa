"""How dashboard, CLI and scripts speak to a running engine: `CacheClient`, over its Unix socket or
over HTTPS.

::

    ClientError
    ├── EngineUnreachable      no engine answers
    ├── EngineUntrusted        what answers over HTTPS could not prove who it is
    ├── EngineRefused          the engine said no, in its own words
    └── EngineAnswerInvalid    what answers is no engine, or one of another version
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

import msgspec

from entrepot.api.models import (
    Activity,
    CheckedCredentialSet,
    CheckedRule,
    CredentialSetSnapshot,
    DeletionPlan,
    EngineStatus,
    Event,
    EvictionSnapshot,
    Examination,
    ImportPlan,
    PullSnapshot,
    RefreshedTag,
    RepositoryDetail,
    RepositorySnapshot,
    RuleMatch,
    RuleSnapshot,
    TagDetail,
    TriedSignIn,
    UpstreamSnapshot,
    VerificationSnapshot,
)
from entrepot.api.transport import (
    BlockingWire,
    HttpxWire,
    Wire,
    WireAnswer,
    WireBroken,
    WireSilent,
    WireUntrusted,
)

TIMEOUT = 30.0
"""Seconds that the engine may take: it asks the source of nobody while it answers here, but it may
be busy."""

EVICTING = 600.0
"""Seconds that an eviction may take: to remove many large files takes a while on a slow disk."""

ASKING = 120.0
"""Seconds that it may take to ask a source that is slow."""

SIGNING_IN = 300.0
"""Seconds that a sign-in may take: the store of the secrets and the source registry may both be
slow, and each is asked again."""

FIRST_SIGN_IN = 10.0
"""Seconds that the first sign-in of a new credential set is waited for. A source may be silent for
longer: then its health is not known yet."""

EXAMINING = 1800.0
"""Seconds that an examination may take: silent sources take a minute each, and many rules need many
questions."""

LISTENING = 60.0
"""Seconds that the event stream may be silent; the engine says every 15 that it is still there."""

WATCH_INTERVAL = 0.25
"""Seconds between two looks at a pull."""

_REGISTRY = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local/providers/Microsoft.ContainerRegistry/registries/entrepot"

NO_ENGINE = "No engine is running. Start one with: entrepot serve"
"""What is told when nobody answers on the socket of this user."""

T = TypeVar("T")


class _CatalogPage(msgspec.Struct):
    repositories: list[str]


class _NamedTag(msgspec.Struct):
    name: str


class _TagPage(msgspec.Struct):
    tags: list[_NamedTag]


class ClientError(Exception):
    """Something that the user of a client should hear about; ``message`` says what happened and
    what to do."""

    code: ClassVar[str] = "ClientError"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class EngineUnreachable(ClientError):
    """No engine answers on the socket."""

    code = "EngineUnreachable"


class EngineUntrusted(ClientError):
    """What answers over HTTPS could not prove who it is, or speaks no TLS. Nothing was sent to it."""

    code = "EngineUntrusted"


class EngineAnswerInvalid(ClientError):
    """What answers on the socket is no engine, or one of another version."""

    code = "EngineAnswerInvalid"


class EngineRefused(ClientError):
    """The engine said no. *code* is ACR's or ours, *field* the field that caused it, *status* that
    of HTTP."""

    def __init__(self, code: str, message: str, *, field: str | None, status: int) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]
        self.field = field
        self.status = status


class _Error(msgspec.Struct):
    code: str
    message: str
    target: str | None = None


class _DataErrorDetail(msgspec.Struct, frozen=True):
    code: str | None = None


class _DataError(msgspec.Struct):
    code: str
    message: str
    detail: _DataErrorDetail = _DataErrorDetail()


class _ErrorBody(msgspec.Struct):
    """An error in ARM's shape, or in that of ACR's data API."""

    error: _Error | None = None
    errors: list[_DataError] = []


class CacheClient:
    """The one way to a running engine. Use it as ``async with``. Every method raises a
    `ClientError` of the kind that fits."""

    def __init__(
        self,
        wire: Wire,
        *,
        token: str | None = None,
        read_only: bool = False,
        absent: str | Callable[[], str] = NO_ENGINE,
    ) -> None:
        self._wire = wire
        self._absent = absent
        self._listings: dict[str, tuple[str, Any]] = {}
        """By path: the entity tag of the listing that the engine sent last, and what it held."""
        self._headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        self.read_only = False
        """Whether this client bound itself: the engine refuses all that it asks for and that would
        change something."""
        if read_only:
            self.only_read()

    def only_read(self) -> None:
        """Bind this client to reading, for good."""
        self.read_only = True
        self._headers["Entrepot-Read-Only"] = "1"

    @classmethod
    def at(
        cls, socket: Path, *, read_only: bool = False, absent: str | Callable[[], str] = NO_ENGINE
    ) -> CacheClient:
        """A client of the engine that answers on a Unix socket. *absent* is what is told when none
        does."""
        return cls(HttpxWire.at(socket), read_only=read_only, absent=absent)

    @classmethod
    def blocking_at(
        cls, socket: Path, *, read_only: bool = False, absent: str | Callable[[], str] = NO_ENGINE
    ) -> CacheClient:
        """The same, for a command that asks one thing and ends: it blocks while the engine works,
        and starts faster."""
        return cls(BlockingWire(socket), read_only=read_only, absent=absent)

    @classmethod
    def over_https(
        cls, address: str, token: str, *, ca_file: Path | None = None, read_only: bool = False
    ) -> CacheClient:
        """A client of the engine that offers its management at *address* (``https://host:port``).

        Trusted are the certificate authorities of the system and those in *ca_file* (PEM); raises
        OSError when it can't be used.
        """
        absent = f"No engine answers at {address}. Does it run there, with [management] in its settings.toml?"
        return cls(
            HttpxWire.over_https(address, ca_file), token=token, read_only=read_only, absent=absent
        )

    @classmethod
    def of_app(cls, app: Any, *, read_only: bool = False) -> CacheClient:
        """A client of an engine in the same process: its management application, an ASGI callable."""
        return cls(HttpxWire.of_app(app), read_only=read_only)

    async def __aenter__(self) -> CacheClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._wire.close()

    # The whole

    async def status(self) -> EngineStatus:
        """The engine in one look."""
        return await self._get("/entrepot/v1/status", EngineStatus)

    async def activity(self) -> Activity:
        """What clients got in the last 24 hours, in steps of five minutes."""
        return await self._get("/entrepot/v1/activity", Activity)

    async def upstreams(self) -> list[UpstreamSnapshot]:
        """The source registries that rules may pull from."""
        return await self._get("/entrepot/v1/upstreams", list[UpstreamSnapshot])

    async def stop(self) -> None:
        """Ask the engine to end."""
        await self._send("POST", "/entrepot/v1/stop")

    async def examine(self, rule: str | None = None, *, source: str | None = None) -> Examination:
        """Look at all that the rules need of their sources and of the engine's machine, or one
        rule, or the rules of one *source* (a login server)."""
        asked = "&".join(
            f"{name}={quote(value, safe='')}"
            for name, value in (("rule", rule), ("source", source))
            if value is not None
        )
        path = "/entrepot/v1/doctor" + (f"?{asked}" if asked else "")
        return _decoded(await self._send("POST", path, patience=EXAMINING), Examination)

    async def recent_events(self, limit: int | None = None) -> list[Event]:
        """The last events, oldest first, *limit* of them at the most."""
        return await self._get(
            "/entrepot/v1/events?recent=1" + (f"&limit={limit}" if limit is not None else ""),
            list[Event],
        )

    async def events(self) -> AsyncIterator[Event]:
        """What happens from now on, until the engine ends."""
        left, refused = b"", None
        try:
            async with aclosing(
                self._wire.stream("/entrepot/v1/events", self._headers, LISTENING)
            ) as pieces:
                async for status, piece in pieces:
                    if status != 200:
                        left, refused = left + piece, status
                        continue
                    # Lines end with a line feed and nothing else: in JSON characters such as U+2028
                    # may stand unescaped.
                    *lines, left = (left + piece).split(b"\n")
                    for line in lines:
                        if line.startswith(b"data: "):
                            yield _decoded(line[6:], Event)
        except WireBroken as error:
            raise self._failed(error) from error
        if refused is not None:
            raise _refused(left, refused)

    # Cache rules

    async def rules(self) -> list[RuleSnapshot]:
        """All cache rules, by name; the very same list as long as nothing has changed."""
        return await self._listing("/entrepot/v1/rules", list[RuleSnapshot])

    async def rule(self, name: str) -> RuleSnapshot:
        """One cache rule, its name without regard to case."""
        await self._send("GET", _resource("cacheRules", name))
        return next(each for each in await self.rules() if each.name.casefold() == name.casefold())

    async def create_rule(
        self,
        name: str,
        source_repository: str,
        target_repository: str,
        credential_set: str | None = None,
        freshness: str | None = None,
    ) -> None:
        """Make a cache rule; refused when one of that name is there. *freshness*: ``always``,
        ``never``, ``10 min``; None: as the settings say."""
        properties: dict[str, Any] = {
            "sourceRepository": source_repository,
            "targetRepository": target_repository,
        }
        if credential_set is not None:
            properties["credentialSetResourceId"] = _resource("credentialSets", credential_set)
        if freshness is not None:
            properties["freshness"] = freshness
        await self._send(
            "PUT", _resource("cacheRules", name), {"properties": properties}, must_be_new=True
        )

    async def update_rule(
        self,
        name: str,
        credential_set: str | msgspec.UnsetType | None = msgspec.UNSET,
        *,
        freshness: str | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> None:
        """Give a cache rule another credential set, or none, and another freshness, or that of the
        settings; what is not named stays."""
        properties: dict[str, Any] = {}
        if credential_set is not msgspec.UNSET:
            properties["credentialSetResourceId"] = (
                _resource("credentialSets", credential_set) if credential_set is not None else None
            )
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
        """What is wrong with a cache rule that does not exist yet. What is None is not judged; an
        empty credential set says that there shall be none."""
        asked = {
            "name": name,
            "sourceRepository": source_repository,
            "targetRepository": target_repository,
            "credentialSet": credential_set,
            "freshness": freshness,
        }
        return _decoded(
            await self._send("POST", "/entrepot/v1/checks/cacheRule", asked), CheckedRule
        )

    async def plan_delete_rule(self, name: str) -> DeletionPlan:
        """What goes and what stays when a cache rule is deleted; nothing is changed."""
        return await self._get(f"/entrepot/v1/rules/{_segment(name)}/plan", DeletionPlan)

    async def match(self, image: str) -> RuleMatch:
        """Which rule answers for ``library/nginx:1.27``; with the engine's address in front, or a
        source such as ``docker.io/library/nginx``, too."""
        return await self._get(f"/entrepot/v1/match?image={quote(image, safe='')}", RuleMatch)

    async def plan_import(self, text: str) -> ImportPlan:
        """What would become of the rules and credential sets of a TOML text; nothing is changed."""
        return _decoded(
            await self._send("POST", "/entrepot/v1/checks/import", {"text": text}), ImportPlan
        )

    async def apply_import(self, text: str) -> ImportPlan:
        """Make the rules and credential sets of a TOML text, all of them or none: refused
        (``ImportRefused``) when one can't be made."""
        return _decoded(
            await self._send("POST", "/entrepot/v1/imports", {"text": text}), ImportPlan
        )

    # Credential sets

    async def credential_sets(self) -> list[CredentialSetSnapshot]:
        """All credential sets, by name, with their health; the very same list as long as nothing
        has changed."""
        return await self._listing("/entrepot/v1/credentialSets", list[CredentialSetSnapshot])

    async def credential_set(self, name: str) -> CredentialSetSnapshot:
        """One credential set, its name without regard to case."""
        await self._send("GET", _resource("credentialSets", name))
        return next(
            each for each in await self.credential_sets() if each.name.casefold() == name.casefold()
        )

    async def credential_set_once_tried(
        self, name: str, *, patience: float = FIRST_SIGN_IN
    ) -> CredentialSetSnapshot:
        """A credential set that is new or has new identifiers, once its first sign-in has ended;
        after *patience* seconds as it is then."""
        import asyncio

        until = time.monotonic() + patience
        while True:
            current = await self.credential_set(name)
            if current.checked is not None or time.monotonic() >= until:
                return current
            await asyncio.sleep(WATCH_INTERVAL)

    async def create_credential_set(
        self, name: str, login_server: str, username_id: str, password_id: str
    ) -> None:
        """Make a credential set; refused when one of that name is there."""
        body = {
            "properties": {
                "loginServer": login_server,
                "authCredentials": [_credential(username_id, password_id)],
            }
        }
        await self._send("PUT", _resource("credentialSets", name), body, must_be_new=True)

    async def update_credential_set(
        self, name: str, username_id: str | None = None, password_id: str | None = None
    ) -> None:
        """Change where the secrets of a credential set are kept; None leaves one as it is."""
        await self._send(
            "PATCH",
            _resource("credentialSets", name),
            {"properties": {"authCredentials": [_credential(username_id, password_id)]}},
        )

    async def delete_credential_set(self, name: str) -> None:
        """Delete a credential set that no rule uses."""
        await self._send("GET", _resource("credentialSets", name))
        await self._send("DELETE", _resource("credentialSets", name))

    async def plan_delete_credential_set(self, name: str) -> DeletionPlan:
        """What stands in the way when a credential set is to be deleted; nothing is changed."""
        return await self._get(f"/entrepot/v1/credentialSets/{_segment(name)}/plan", DeletionPlan)

    async def check_credential_set(
        self,
        name: str | None = None,
        login_server: str | None = None,
        username_id: str | None = None,
        password_id: str | None = None,
    ) -> CheckedCredentialSet:
        """What is wrong with a credential set that does not exist yet. What is None is not judged."""
        asked = {
            "name": name,
            "loginServer": login_server,
            "usernameId": username_id,
            "passwordId": password_id,
        }
        return _decoded(
            await self._send("POST", "/entrepot/v1/checks/credentialSet", asked),
            CheckedCredentialSet,
        )

    async def try_sign_in(
        self, name: str, login_server: str, username_id: str, password_id: str
    ) -> TriedSignIn:
        """Really sign in as a credential set would that does not exist yet, or not like this;
        nothing is kept of it."""
        asked = {
            "name": name,
            "loginServer": login_server,
            "usernameId": username_id,
            "passwordId": password_id,
        }
        return _decoded(
            await self._send("POST", "/entrepot/v1/signIn", asked, patience=SIGNING_IN), TriedSignIn
        )

    async def check_sign_in(self, name: str) -> CredentialSetSnapshot:
        """Really sign in with a credential set: how it went is its health."""
        path = f"/entrepot/v1/credentialSets/{_segment(name)}/check"
        return _decoded(await self._send("POST", path, patience=SIGNING_IN), CredentialSetSnapshot)

    # Cached repositories

    async def repositories(self) -> list[RepositorySnapshot]:
        """All cached repositories, by name; the very same list as long as nothing has changed."""
        return await self._listing("/entrepot/v1/repositories", list[RepositorySnapshot])

    async def repository(self, name: str) -> RepositoryDetail:
        """A cached repository with its tags."""
        return await self._get(_repository(name), RepositoryDetail)

    async def repository_names(self, prefix: str, limit: int) -> list[str]:
        """The names of at most *limit* cached repositories that begin with *prefix*, in their
        order."""
        page = _decoded(
            await self._send("GET", f"/acr/v1/_catalog?{_page_from(prefix, limit)}"), _CatalogPage
        )
        return [name for name in page.repositories if name.startswith(prefix)]

    async def tag_names(self, repository: str, prefix: str, limit: int) -> list[str]:
        """The names of at most *limit* tags of a cached repository that begin with *prefix*, in
        their order."""
        page = _decoded(
            await self._send(
                "GET", f"/acr/v1/{quote(repository)}/_tags?{_page_from(prefix, limit)}"
            ),
            _TagPage,
        )
        return [tag.name for tag in page.tags if tag.name.startswith(prefix)]

    async def tag(self, repository: str, tag: str) -> TagDetail:
        """A tag with all that is behind it: images, their layers, and who shares these."""
        return await self._get(f"{_repository(repository)}/_tags/{_segment(tag)}", TagDetail)

    async def plan_delete_repository(self, name: str) -> DeletionPlan:
        """What goes and what stays when a cached repository is deleted; nothing is changed."""
        return await self._get(f"{_repository(name)}/_plan", DeletionPlan)

    async def plan_delete_tag(self, repository: str, tag: str) -> DeletionPlan:
        """What goes and what stays when a tag is deleted; nothing is changed."""
        return await self._get(
            f"{_repository(repository)}/_tags/{_segment(tag)}/_plan", DeletionPlan
        )

    async def delete_repository(self, name: str) -> None:
        """Delete a cached repository with all that only it holds."""
        await self._send("DELETE", f"/acr/v1/{_segments(name)}")

    async def delete_tag(self, repository: str, tag: str) -> None:
        """Forget a tag; the next pull fetches it again."""
        await self._send("DELETE", f"/acr/v1/{_segments(repository)}/_tags/{_segment(tag)}")

    async def lock(
        self, repository: str, tag: str | None = None, digest: str | None = None
    ) -> None:
        """Keep a repository, one of its tags or one of its manifests from eviction and deletion,
        with all that it needs."""
        await self._send("PATCH", _cached(repository, tag, digest), {"deleteEnabled": False})

    async def unlock(
        self, repository: str, tag: str | None = None, digest: str | None = None
    ) -> None:
        """Take a lock away; the others stay."""
        await self._send("PATCH", _cached(repository, tag, digest), {"deleteEnabled": True})

    async def evict(self, *, dry_run: bool = False, target: int | None = None) -> EvictionSnapshot:
        """Evict the images used least recently until at most *target* bytes are held (None: the
        low-water mark of the settings), or only say which."""
        path = "/entrepot/v1/checks/eviction" if dry_run else "/entrepot/v1/evict"
        return _decoded(
            await self._send("POST", path, {"target": target}, patience=EVICTING), EvictionSnapshot
        )

    async def start_verification(self, speed: int | None) -> VerificationSnapshot:
        """Begin to hash all cached blobs, *speed* bytes per second at the most (None: no limit).
        Wrong ones are removed."""
        return _decoded(
            await self._send("POST", "/entrepot/v1/verify", {"speed": speed}), VerificationSnapshot
        )

    async def verification(self) -> VerificationSnapshot:
        """The verification under way, or the last one of this engine."""
        return await self._get("/entrepot/v1/verify", VerificationSnapshot)

    async def cancel_verification(self) -> VerificationSnapshot:
        """End the verification under way."""
        return _decoded(await self._send("DELETE", "/entrepot/v1/verify"), VerificationSnapshot)

    # Pulls

    async def pulls(self) -> list[PullSnapshot]:
        """The pulls under way, with their layers, and those that ended in the last 30 days (1,000
        at the most), without; newest first."""
        return await self._get("/entrepot/v1/pulls", list[PullSnapshot])

    async def running_pulls(self) -> list[PullSnapshot]:
        """The pulls under way only, newest first: what is worth asking twice a second."""
        return await self._get("/entrepot/v1/pulls?running=1", list[PullSnapshot])

    async def pull(self, id: str) -> PullSnapshot:
        """One pull, with its layers."""
        return await self._get(f"/entrepot/v1/pulls/{_segment(id)}", PullSnapshot)

    async def start_pull(
        self, image: str, platform: str | None = None, asked_by: str = "cli"
    ) -> PullSnapshot:
        """Begin a pull of ``library/nginx:1.27``, for the platform of the engine's machine unless
        another is named."""
        asked = {"image": image, "platform": platform, "askedBy": asked_by}
        return _decoded(await self._send("POST", "/entrepot/v1/pulls", asked), PullSnapshot)

    async def refresh(self, image: str) -> RefreshedTag:
        """Ask the source where a tag points now, however fresh it is. Of what moved only the
        manifest is fetched."""
        return _decoded(
            await self._send("POST", "/entrepot/v1/refresh", {"image": image}, patience=ASKING),
            RefreshedTag,
        )

    async def cancel_pull(self, id: str) -> PullSnapshot:
        """Stop a pull."""
        return _decoded(
            await self._send("DELETE", f"/entrepot/v1/pulls/{_segment(id)}"), PullSnapshot
        )

    async def watch_pull(
        self, id: str, *, interval: float = WATCH_INTERVAL
    ) -> AsyncIterator[PullSnapshot]:
        """A pull again and again, every *interval* seconds, until it has ended."""
        import asyncio

        while True:
            pull = await self.pull(id)
            yield pull
            if pull.state.ended:
                return
            await asyncio.sleep(interval)

    # The wire

    async def _get(self, path: str, kind: type[T]) -> T:
        return _decoded(await self._send("GET", path), kind)

    async def _listing(self, path: str, kind: type[T]) -> T:
        """A listing, fetched and read only when the engine says that it is another than the last
        time."""
        known = self._listings.get(path)
        answer = await self._ask(
            "GET", path, {"If-None-Match": known[0]} if known is not None else {}
        )
        if answer.status == 304 and known is not None:
            unchanged: T = known[1]
            return unchanged
        found = _decoded(_accepted(answer), kind)
        if answer.etag is not None:
            self._listings[path] = answer.etag, found
        return found

    async def _send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        must_be_new: bool = False,
        patience: float = TIMEOUT,
    ) -> bytes:
        return _accepted(
            await self._ask(
                method, path, {"If-None-Match": "*"} if must_be_new else {}, body, patience=patience
            )
        )

    async def _ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: object = None,
        *,
        patience: float = TIMEOUT,
    ) -> WireAnswer:
        headers = self._headers | headers
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
        try:
            return await self._wire.ask(method, path, headers, content, patience)
        except WireBroken as error:
            raise self._failed(error) from error

    def _failed(self, error: WireBroken) -> ClientError:
        if isinstance(error, WireUntrusted):
            return EngineUntrusted(
                f"{error}. Nothing was sent. Certificate authorities of your own are named with --ca-file."
            )
        if isinstance(error, WireSilent):
            return EngineUnreachable("The engine took the question but does not answer.")
        return EngineUnreachable(self._absent if isinstance(self._absent, str) else self._absent())


def _accepted(answer: WireAnswer) -> bytes:
    if 200 <= answer.status < 300:
        return answer.body
    raise _refused(answer.body, answer.status)


def _refused(content: bytes, status: int) -> EngineRefused:
    body = _decoded(content, _ErrorBody)
    if body.error is None:
        if not body.errors:
            raise _odd(content)
        first = body.errors[0]
        return EngineRefused(
            first.detail.code or first.code, first.message, field=None, status=status
        )
    told = body.error
    return EngineRefused(told.code, told.message, field=told.target, status=status)


def _decoded(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise _odd(content) from error


def _odd(content: bytes) -> EngineAnswerInvalid:
    shown = content[:60].decode("utf-8", "replace")
    return EngineAnswerInvalid(
        f"What answers is no engine, or one of another version: {shown!r}. Stop it, and start this one with: entrepot serve"
    )


def _segment(text: str) -> str:
    """A part of a path. Dots alone are escaped too: httpx would take them for the way to another
    resource (RFC 3986, 5.2.4)."""
    return text.replace(".", "%2E") if text in {".", ".."} else quote(text, safe="")


def _segments(name: str) -> str:
    return "/".join(map(_segment, name.split("/")))


def _repository(name: str) -> str:
    return f"/entrepot/v1/repositories/{_segments(name)}"


def _cached(repository: str, tag: str | None, digest: str | None) -> str:
    path = f"/acr/v1/{_segments(repository)}"
    if digest is not None:
        return f"{path}/_manifests/{_segment(digest)}"
    return path if tag is None else f"{path}/_tags/{_segment(tag)}"


def _resource(collection: str, name: str) -> str:
    return f"{_REGISTRY}/{collection}/{_segment(name)}"


def _credential(username_id: str | None, password_id: str | None) -> dict[str, str]:
    told = {
        "name": "Credential1",
        "usernameSecretIdentifier": username_id,
        "passwordSecretIdentifier": password_id,
    }
    return {name: value for name, value in told.items() if value is not None}


def _page_from(prefix: str, limit: int) -> str:
    """The query of a page that begins with the first name not before *prefix*: ``last`` is the name
    that a page comes after, so one just before it is named."""
    if not prefix:
        return f"n={limit}"
    just_before = f"{prefix[:-1]}{chr(max(1, ord(prefix[-1]) - 1))}~"
    return f"n={limit}&last={quote(just_before, safe='')}"
