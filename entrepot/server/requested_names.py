"""The names that clients use: target repositories, or in mirror mode those of a source registry.

A client in mirror mode says whose names it uses by ``ns``, as containerd and BuildKit do (OCI
distribution specification, "Registry Proxying"). For docker, which says nothing, a mirror listener
does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

import msgspec

from entrepot.core.mirrors import parse_namespace, without_https_port
from entrepot.core.reference import Repository
from entrepot.errors import RepositoryUnknown, RequestInvalid
from entrepot.httpd.asgi import Scope
from entrepot.server.request_scope import NAMESPACE


@dataclass(frozen=True, slots=True)
class RequestedNamespace:
    """The source registry whose names a request uses."""

    login_server: str
    """In its normal form."""
    is_asked_for: bool
    """The client sent ``ns``, so that the links for it need one too."""

    @property
    def link_query(self) -> Mapping[str, str]:
        """What a link to the next page has besides the page."""
        return {"ns": self.login_server} if self.is_asked_for else {}


@dataclass(frozen=True, slots=True)
class RequestedRepository:
    """A repository as a client asks for it."""

    name: str
    """As the client writes it: it never sees another one."""
    target: Repository
    namespace: RequestedNamespace | None = None

    @property
    def link_query(self) -> Mapping[str, str]:
        """What a link to the next page has besides the page."""
        return self.namespace.link_query if self.namespace is not None else {}

    def tag_list(self, body: bytes) -> bytes:
        """A list of the target's tags with the client's name in it."""
        if self.name == self.target:
            return body
        return msgspec.json.encode(
            {"name": self.name, "tags": msgspec.json.decode(body, type=_EncodedTags).tags}
        )

    def __str__(self) -> str:
        return f"{self.namespace.login_server}/{self.name}" if self.namespace else self.name


class _EncodedTags(msgspec.Struct):
    tags: msgspec.Raw


def requested_namespace(scope: Scope) -> RequestedNamespace | None:
    """The source registry whose names a request uses; None for names of target repositories.

    Every name at a mirror listener is one of its own source registry. Raises `RequestInvalid`, and
    `RepositoryUnknown` where such a client asks for another registry.
    """
    fixed: str | None = scope.get(NAMESPACE)
    query: bytes = scope["query_string"]
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("ns") if query else None
    if not values:
        return RequestedNamespace(fixed, is_asked_for=False) if fixed is not None else None
    if len(values) > 1:
        raise RequestInvalid(
            f"The query has the parameter ns {len(values)} times.", "Send it once.", field="ns"
        )
    login_server = parse_namespace(values[0])
    if fixed is not None and login_server != without_https_port(fixed):
        raise RepositoryUnknown(
            f"Every name at this address is one of {fixed}, and {login_server} is asked for.",
            f"Use this mirror for images of {fixed} only.",
        )
    return RequestedNamespace(login_server, is_asked_for=True)
