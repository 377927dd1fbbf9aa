"""Gives the requests of a mirror their namespace: all at its address, or those with its host."""

from __future__ import annotations

from collections.abc import Mapping

from entrepot.httpd.asgi import Application, Receive, Scope, Send
from entrepot.server.request_scope import NAMESPACE


class FixedNamespace:
    """Passes all requests on to *app* as those of one namespace."""

    def __init__(self, app: Application, namespace: str) -> None:
        self._app = app
        self._namespace = namespace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app({**scope, NAMESPACE: self._namespace}, receive, send)


class NamespaceOfHost:
    """Passes requests on to *app*, those with the host of a mirror as those of its namespace.

    *namespaces* are namespaces by host, in lower case and without a port.
    """

    def __init__(self, app: Application, namespaces: Mapping[str, str]) -> None:
        self._app = app
        self._namespaces = namespaces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        for name, value in scope.get("headers", ()):
            if name == b"host":
                namespace = self._namespaces.get(host_name(value.decode("latin-1")))
                if namespace is not None:
                    scope = {**scope, NAMESPACE: namespace}
                break
        await self._app(scope, receive, send)


def host_name(header: str) -> str:
    """The host of a header ``Host`` in lower case, without port, brackets and a dot at its end."""
    host = header.strip().lower()
    host = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
    return host.rstrip(".")
