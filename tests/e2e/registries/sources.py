"""Fakes of the source registries: hosts with their real names and with certificates for
them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from tests.e2e.registries.certificates import Authority
from tests.e2e.registries.namespace import NETWORK, Namespace
from tests.e2e.registries.profiles import PROFILES, Profile
from tests.e2e.registries.sign_in import TokenService
from tests.fakes import FakeImage, FakeRegistry, Request
from tests.fakes.faults import Answer
from tests.fakes.registry import error

PORT = 443


class Part(Protocol):
    """What answers some of the requests to a host."""

    def answer(self, request: Request) -> Answer | None:
        """None: this is another part's."""


class NamedHost(FakeRegistry):
    """One host. What its parts don't answer is 404, and so is what was meant for another host."""

    def __init__(self, name: str, address: str, authority: Authority) -> None:
        super().__init__(tls=authority.server(name), address=address, port=PORT)
        self.name = name
        self.parts: list[Part] = []

    def right_answer(self, request: Request) -> Answer:
        if request.headers.get("host") != self.name:
            return error(421, "UNSUPPORTED")
        answers = (each.answer(request) for each in self.parts)
        return next((each for each in answers if each is not None), error(404, "NOT_FOUND"))


class Blobs:
    """Where blobs are kept: for everyone who comes with a presigned address, once and for a GET
    only, or for everyone where addresses are not signed."""

    def __init__(self, owner: str, query: str, *, signed: bool) -> None:
        self._owner = owner
        self._query = query
        self._signed = signed
        self._addresses: set[str] = set()
        self._files = FakeRegistry()
        self.signatures: list[str] = []

    def address(self, blob: str, content: bytes) -> str:
        """The path and query at which a blob can be had."""
        signature = secrets.token_hex(32 if self._query else 500)
        path = (
            f"/{self._owner}/{blob}"
            if self._query or not self._signed
            else f"/artifacts-downloads/namespaces/contoso/downloads/{signature}"
        )
        target = f"{path}?{self._query.format(signature=signature)}" if self._query else path
        self._files.files[path] = content
        if self._signed:
            self.signatures.append(signature)
            self._addresses.add(target)
        return target

    def answer(self, request: Request) -> Answer | None:
        if request.path not in self._files.files:
            return None
        relative = not self._query and self._signed
        if not relative and ({"authorization", "cookie"} & request.headers.keys()):
            text = b"<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>"
            return Answer(400, (("Content-Type", "application/xml"),), text)
        if self._signed and (
            request.target not in self._addresses or (request.method != "GET" and not relative)
        ):
            return Answer(
                403,
                (("Content-Type", "application/xml"),),
                b"<Error><Code>SignatureDoesNotMatch</Code></Error>",
            )
        return self._files.right_answer(request)


class Api:
    """``/v2/`` of a registry."""

    def __init__(self, profile: Profile, blobs: Blobs) -> None:
        self.profile = profile
        self.content = FakeRegistry()
        self.tokens = (
            TokenService(profile, lambda name: self.content.has_repository(name))
            if profile.realm
            else None
        )
        self.content.sign_in = self.tokens
        self.remaining = profile.allowance
        self._blobs = blobs

    def answer(self, request: Request) -> Answer | None:
        if not request.path.startswith("/v2/") and not (
            self.tokens and self.tokens.is_asked(request)
        ):
            return None
        profile = self.profile
        if (
            self.remaining is not None
            and request.method == "GET"
            and "/manifests/" in request.path
            and self.remaining <= 0
        ):
            text = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit."}]}'
            return Answer(429, (("Content-Type", "application/json"), ("Retry-After", "1")), text)
        answer = self.content.right_answer(request)
        if answer.status not in {200, 206}:
            return answer
        if "/blobs/" in request.path:
            whole = self.content.blob(request.repository or "", request.path.rpartition("/")[2])
            target = self._blobs.address(request.path.rpartition("/")[2], whole)
            host = "" if profile.blobs == profile.api else f"https://{profile.blobs}"
            return Answer(
                profile.redirects_with,
                (("Location", f"{host}{target}"), ("Content-Type", "application/octet-stream")),
            )
        if self.remaining is not None and "/manifests/" in request.path:
            self.remaining -= request.method == "GET"
            limits = (
                ("ratelimit-limit", f"{profile.allowance};w=21600"),
                ("ratelimit-remaining", f"{self.remaining};w=21600"),
            )
            return answer.with_headers(*limits, ("docker-ratelimit-source", "198.18.0.1"))
        return answer


class Front:
    """A registry that answers nothing but ``/v2/`` itself: registry.k8s.io."""

    def __init__(self, profile: Profile, blobs: Blobs, behind: FakeRegistry) -> None:
        self._profile = profile
        self._blobs = blobs
        self._behind = behind

    def answer(self, request: Request) -> Answer | None:
        if request.path in {"/v2", "/v2/"}:
            return Answer(200, (("Docker-Distribution-API-Version", "registry/2.0"),))
        repository, reference = request.repository, request.path.rpartition("/")[2]
        if not request.path.startswith("/v2/") or repository is None:
            return None
        prefix = self._profile.manifests.partition("/v2/")[2]
        to = f"https://{self._profile.manifests}/{request.target.removeprefix('/v2/')}"
        if "/blobs/" in request.path and self._behind.has_blob(f"{prefix}/{repository}", reference):
            to = f"https://{self._profile.blobs}{self._blobs.address(reference, self._behind.blob(f'{prefix}/{repository}', reference))}"
        return Answer(307, (("Location", to), ("Content-Type", "text/html; charset=utf-8")))


class RegistryWithHosts:
    """A source registry with all of its hosts."""

    def __init__(self, profile: Profile, hosts: dict[str, NamedHost], namespace: Namespace) -> None:
        self.profile = profile
        self._namespace = namespace
        self.hosts = [hosts[each] for each in profile.hosts]
        self.blobs = Blobs(
            profile.name, profile.query, signed=bool(profile.query) or profile.blobs == profile.api
        )
        self.api = Api(profile, self.blobs)
        hosts[profile.blobs].parts.append(self.blobs)
        if profile.manifests:
            hosts[profile.api].parts.append(Front(profile, self.blobs, self.api.content))
            hosts[profile.manifests.partition("/")[0]].parts.append(self.api)
        else:
            hosts[profile.api].parts.append(self.api)
        if profile.realm and self.api.tokens is not None:
            hosts[profile.realm.split("/")[2]].parts.append(_Realm(self.api.tokens))
        if profile.realm_for_bad_tokens:
            hosts[profile.realm_for_bad_tokens.split("/")[2]].parts.append(_Closed())

    def add_image(self, repository: str, tag: str) -> FakeImage:
        """An image of two platforms with three layers each."""
        prefix = f"{self.profile.manifests.partition('/v2/')[2]}/" if self.profile.manifests else ""
        return self.api.content.add_image(prefix + repository, tag, layers=[40_000, 9_000, 200])

    def requests_since(self, since: int = 0) -> list[tuple[str, str, str]]:
        """Host, method and path of each request for a manifest or blob after the first *since*."""
        requests = [
            (host.name, each.method, each.path) for host in self.hosts for each in host.requests
        ]
        return [
            each
            for each in requests
            if "/manifests/" in each[2]
            or "/blobs/" in each[2]
            or "/artifacts-downloads/" in each[2]
        ][since:]

    def requests(self, host: str) -> list[Request]:
        """The requests to one of its hosts."""
        return [request for each in self.hosts if each.name == host for request in each.requests]

    def forget_requests(self) -> None:
        """Start to count again from zero."""
        for host in self.hosts:
            host.requests.clear()

    def stop(self) -> None:
        """None of its hosts answers any more."""
        for host in self.hosts:
            self._namespace.run(host.stop())

    def start(self) -> None:
        """They answer again."""
        for host in self.hosts:
            self._namespace.run(host.start())

    @property
    def secrets(self) -> list[str]:
        """What must not be found anywhere: tokens, and the signatures of presigned addresses."""
        tokens = self.api.tokens
        return [*(tokens.given if tokens else ()), *self.blobs.signatures]


class _Realm:
    """The token service of a registry at a host of its own."""

    def __init__(self, tokens: TokenService) -> None:
        self._tokens = tokens

    def answer(self, request: Request) -> Answer | None:
        return self._tokens.give(request) if self._tokens.is_asked(request) else None


class _Closed:
    """A token service that gives the anonymous nothing."""

    def answer(self, request: Request) -> Answer | None:
        return error(401, "UNAUTHORIZED")


def addresses(extra: Iterable[str] = ()) -> dict[str, str]:
    """An address for every host of every registry, and for those of *extra*."""
    names = dict.fromkeys([*(host for each in PROFILES for host in each.hosts), *extra])
    return {host: f"{NETWORK}.{number}" for number, host in enumerate(names, start=1)}


class World:
    """All source registries, and the network that they are in. Use it as ``with``."""

    def __init__(self, root: Path, extra: Iterable[str] = ()) -> None:
        self.authority = Authority(root)
        host_addresses = addresses(extra)
        self.namespace = Namespace(host_addresses)
        self._hosts = {
            name: NamedHost(name, address, self.authority)
            for name, address in host_addresses.items()
        }
        self.sources = {
            each.login_server: RegistryWithHosts(each, self._hosts, self.namespace)
            for each in PROFILES
        }

    def host(self, name: str) -> NamedHost:
        """One of the hosts."""
        return self._hosts[name]

    def add_realm(self, host: str, tokens: TokenService) -> None:
        """Let a token service answer at another host too."""
        self._hosts[host].parts.append(_Realm(tokens))

    def __enter__(self) -> World:
        self.namespace.__enter__()
        try:
            for host in self._hosts.values():
                self.namespace.run(host.start())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for host in self._hosts.values():
                self.namespace.run(host.stop())
        finally:
            self.namespace.__exit__()
