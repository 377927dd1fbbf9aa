"""The source registries that rules may pull from, and how to sign in to each.

The table is that of ACR's artifact cache ("Upstream registries", documentation of August 2026). An
administrator may declare further ones, and give a known one another endpoint, in ``settings.toml``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from entrepot.core.hosts import is_loopback
from entrepot.core.reference import Repository, quoted
from entrepot.core.states import SignIn
from entrepot.errors import Refusal

DOCKER_HUB: Final = "docker.io"

_ALIASES = {"index.docker.io": DOCKER_HUB, "registry-1.docker.io": DOCKER_HUB}
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_LOGIN_SERVER = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_PATTERN = re.compile(rf"\*(?:\.{_LABEL})+")


class LoginServerInvalid(Refusal):
    """A login server is not a host name with an optional port."""

    code = "LoginServerInvalid"


class LoginServerNotSupported(Refusal):
    """A login server is neither in the table nor declared in ``settings.toml``."""

    code = "UpstreamNotSupported"


class CredentialsNotTaken(Refusal):
    """A source registry serves unauthenticated pulls only and takes no credentials."""

    code = "UpstreamTakesNoCredentials"


class RegistryDeclarationInvalid(Refusal):
    """A declaration of a source registry in ``settings.toml`` can't work.

    ``field`` is the key.
    """

    code = "UpstreamDeclarationInvalid"


@dataclass(frozen=True, slots=True)
class DeclaredRegistry:
    """A source registry as an administrator declares it.

    A field that is None comes from the table, else it has its default.
    """

    login_server: str
    name: str | None = None
    sign_in: SignIn | None = None
    endpoint: str | None = None
    realms: tuple[str, ...] = ()
    mirror: bool = False


@dataclass(frozen=True, slots=True)
class SourceRegistry:
    """A source registry."""

    name: str
    """``Docker Hub``"""
    login_server: str
    """``docker.io``, or a pattern of one label: ``*.azurecr.io``."""
    sign_in: SignIn
    endpoint: str
    """Its API: ``https://registry-1.docker.io``, without a slash at its end.

    That of a pattern: ``https://*.azurecr.io``.
    """
    declared: bool = False
    """It comes from ``settings.toml`` and is not in the table."""
    realms: tuple[str, ...] = ()
    """Token services that it may name besides hosts of its own domain.

    ``https://auth.docker.io``, without a path.
    """
    mirror: bool = False
    """The endpoint is a mirror of several registries: each request names the login server."""

    @property
    def pattern(self) -> bool:
        """Whether it stands for many registries, each with its own name."""
        return self.login_server.startswith("*.")

    def repository(self, path: str) -> Repository:
        """The repository that *path* means here: see `repository_at`."""
        return repository_at(self.login_server, path)


def repository_at(login_server: str, path: str) -> Repository:
    """The repository that *path* means at a source registry.

    Docker Hub has its official images, whose names have one part, below ``library/``.
    """
    if login_server == DOCKER_HUB and path and "/" not in path:
        return Repository(f"library/{path}")
    return Repository(path)


def _known(
    name: str,
    login_server: str,
    sign_in: SignIn,
    endpoint: str | None = None,
    realms: tuple[str, ...] = (),
) -> SourceRegistry:
    return SourceRegistry(
        name, login_server, sign_in, endpoint or f"https://{login_server}", realms=realms
    )


TABLE: Final = (
    _known("Docker Hub", DOCKER_HUB, SignIn.REQUIRED, "https://registry-1.docker.io"),
    _known("Docker Hardened Images", "dhi.io", SignIn.REQUIRED, realms=("https://auth.docker.io",)),
    _known("Azure Container Registry", "*.azurecr.io", SignIn.REQUIRED),
    _known("Microsoft Artifact Registry", "mcr.microsoft.com", SignIn.NONE),
    _known("AWS ECR Public Gallery", "public.ecr.aws", SignIn.NONE),
    _known("GitHub Container Registry", "ghcr.io", SignIn.OPTIONAL),
    _known("Quay", "quay.io", SignIn.OPTIONAL),
    _known("Kubernetes", "registry.k8s.io", SignIn.OPTIONAL),
    _known("Google Artifact Registry", "*.pkg.dev", SignIn.REQUIRED),
    _known("Google Container Registry (legacy)", "gcr.io", SignIn.OPTIONAL),
    # It names this realm in its answer to an expired token (NVIDIA/nvidia-container-toolkit issue
    # 1945).
    _known("NVIDIA NGC", "nvcr.io", SignIn.OPTIONAL, realms=("https://authn.nvidia.com",)),
    # "Red Hat Container Registry Authentication" signs in there; the registry itself names a realm
    # on its own host.
    _known(
        "Red Hat Registry",
        "registry.redhat.io",
        SignIn.REQUIRED,
        realms=("https://sso.redhat.com",),
    ),
    _known("Red Hat Public Registry", "registry.access.redhat.com", SignIn.NONE),
)
"""In the order of ACR's documentation."""


class SourceRegistries:
    """All source registries that rules may pull from.

    Those of the table, and those that settings declare.
    """

    def __init__(self, declared: Iterable[DeclaredRegistry] = ()) -> None:
        """The table and *declared* registries.

        Raises `RegistryDeclarationInvalid` or `LoginServerInvalid`.
        """
        self._registries = {registry.login_server: registry for registry in TABLE}
        for declaration in declared:
            registry = self._declared(declaration)
            self._registries[registry.login_server] = registry

    def find(self, login_server: str, *, field: str = "loginServer") -> SourceRegistry:
        """The source registry of a login server as a person types it.

        A registry of a pattern comes back under its own name and endpoint. Raises
        `LoginServerInvalid` or `LoginServerNotSupported`, for *field*.
        """
        name = parse_login_server(login_server, field=field)
        if registry := self._registries.get(name):
            if registry.pattern:
                raise LoginServerInvalid(
                    f"{name} stands for many registries.",
                    f"Write the name of yours: {name.replace('*', 'contoso', 1)}.",
                    field=field,
                )
            return registry
        _, dot, domain = name.partition(".")
        if dot and (pattern := self._registries.get(f"*.{domain}")):
            return replace(pattern, login_server=name, endpoint=f"https://{name}")
        raise LoginServerNotSupported(
            f"Unsupported upstream or login server '{name}' provided. Supported upstreams or login "
            f"servers are: {', '.join(self._registries)}.",
            self._not_supported_hint(name),
            field=field,
        )

    def __iter__(self) -> Iterator[SourceRegistry]:
        return iter(self._registries.values())

    def __contains__(self, login_server: object) -> bool:
        """Whether *login_server* is one of them, spelled as in the table."""
        return login_server in self._registries

    def _not_supported_hint(self, name: str) -> str:
        declare = f'An administrator can declare it in settings.toml: [upstreams."{name}"].'
        close = difflib.get_close_matches(name, self._registries, n=1, cutoff=0.75)
        return (
            f"Did you mean {close[0]}? If not: {declare[0].lower()}{declare[1:]}"
            if close
            else declare
        )

    def _declared(self, declared: DeclaredRegistry) -> SourceRegistry:
        name = parse_login_server(declared.login_server, field="login_server")
        base = self._registries.get(name)
        if base is None and not name.startswith("*."):
            base = self._registries.get(f"*.{name.partition('.')[2]}")
        sign_in = declared.sign_in or (base.sign_in if base else SignIn.OPTIONAL)
        endpoint = base.endpoint if base and base.login_server == name else f"https://{name}"
        if declared.endpoint is not None:
            if name.startswith("*."):
                raise RegistryDeclarationInvalid(
                    f"{name} stands for many registries, which can't share one endpoint.",
                    "Declare each by its own name.",
                    field="endpoint",
                )
            endpoint = _endpoint(name, declared.endpoint, sign_in)
        elif declared.mirror:
            raise RegistryDeclarationInvalid(
                f"{name} is said to be asked at a mirror, and has no endpoint.",
                'Write the address of the mirror: endpoint = "https://mirror.example.com".',
                field="mirror",
            )
        realms = tuple(
            dict.fromkeys(
                (
                    *(base.realms if base else ()),
                    *(_realm(name, realm) for realm in declared.realms),
                )
            )
        )
        title = declared.name or (base.name if base else name)
        in_table = base is not None and base.login_server == name and not base.declared
        return SourceRegistry(
            title,
            name,
            sign_in,
            endpoint,
            declared=not in_table,
            realms=realms,
            mirror=declared.mirror,
        )


def parse_login_server(text: str, *, field: str = "loginServer") -> str:
    """A login server, or a pattern such as ``*.azurecr.io``, in its normal form.

    Lower case, and ``docker.io`` for its other names. Raises `LoginServerInvalid` with a hint that
    fits what was typed.
    """
    name = text.strip().lower()
    if not name:
        raise LoginServerInvalid(
            "The login server is missing.",
            "Write the name of a source registry: docker.io.",
            field=field,
        )
    scheme, separator, rest = name.partition("://")
    if separator:
        raise LoginServerInvalid(
            f"A login server has no {scheme}:// in front.",
            f"Write {rest.partition('/')[0] or 'docker.io'}.",
            field=field,
        )
    host, slash, _ = name.partition("/")
    if slash:
        raise LoginServerInvalid(
            "A login server has no path.",
            f"Write {host or 'docker.io'}; the path belongs into the cache rule.",
            field=field,
        )
    if not _LOGIN_SERVER.fullmatch(name) and not _PATTERN.fullmatch(name):
        raise LoginServerInvalid(
            f"{quoted(name)} is not a login server.",
            "A login server is a host name, with a port where it needs one: "
            "registry.example.com:5000.",
            field=field,
        )
    return _ALIASES.get(name, name)


def _endpoint(login_server: str, text: str, sign_in: SignIn) -> str:
    """An endpoint without a slash at its end; raises `RegistryDeclarationInvalid`."""
    endpoint, scheme, host = _origin(
        f"The endpoint of {login_server}",
        text,
        "the address of a registry",
        "https://mirror.example.com:8443",
        "endpoint",
    )
    # A password must never travel in clear; loopback traffic does not leave this machine.
    if scheme == "http" and sign_in is not SignIn.NONE and not is_loopback(host):
        raise RegistryDeclarationInvalid(
            f"The endpoint of {login_server} is http, and credentials would be sent in clear.",
            'Use https, or say that it takes none: sign_in = "none".',
            field="endpoint",
        )
    return endpoint


def _realm(login_server: str, text: str) -> str:
    """The token service of a login server, without a path.

    Raises `RegistryDeclarationInvalid`.
    """
    realm, scheme, host = _origin(
        f"A realm of {login_server}",
        text,
        "the address of a host that gives tokens",
        "https://auth.example.com",
        "realms",
    )
    if scheme == "http" and not is_loopback(host):
        raise RegistryDeclarationInvalid(
            f"A realm of {login_server} is http, and credentials would be sent there in clear.",
            "Use https.",
            field="realms",
        )
    return realm


def _origin(subject: str, text: str, kind: str, example: str, field: str) -> tuple[str, str, str]:
    """An origin without a slash at its end, its scheme and its host.

    An origin has scheme, host and port. Raises `RegistryDeclarationInvalid`.
    """
    origin = text.strip().rstrip("/")
    try:
        parts = urlsplit(origin)
        host, _port = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.username is not None or parts.password is not None:
        raise RegistryDeclarationInvalid(
            f"{subject} carries a user name or password.",
            "Leave them out of the address; a credential set says where they are kept.",
            field=field,
        )
    if (
        parts.scheme not in {"https", "http"}
        or not host
        or parts.path
        or parts.query
        or parts.fragment
        or re.search(r"\s", origin)
    ):
        hint = (
            "Write https:// and a host, with a port where it needs one and without a path: "
            f"{example}."
        )
        raise RegistryDeclarationInvalid(f"{subject} is not {kind}.", hint, field=field)
    return origin, parts.scheme, host
