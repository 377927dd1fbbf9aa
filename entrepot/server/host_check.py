"""Protection against DNS rebinding of a registry on loopback (S36).

Browsers that use another machine's name get no answer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from entrepot.httpd.asgi import Application, Receive, Scope, Send
from entrepot.server.mirror_namespace import host_name

_OF_BROWSERS = frozenset(
    {b"origin", b"referer", b"accept-language", b"sec-fetch-site", b"sec-fetch-mode"}
)
"""Headers that browsers send and container clients do not.

No page can keep its browser from sending Accept-Language, and over plain HTTP that may be the only
one.
"""

_REFUSAL = (
    b"This registry answers browsers on this machine only under the name localhost or an address. "
    b"If a proxy in front of it is meant to pass another name on, add it to settings.toml: "
    b'hosts = ["registry.example.com"]\n'
)


class LocalHosts:
    """Refuses browsers that name another machine as host; passes the rest on to *app*.

    Else a web page whose name its owner lets point to 127.0.0.1 could read the cached content.
    Container clients and proxies may use any name: no page can make them send requests. *names* are
    further hosts that are allowed, without a port.
    """

    def __init__(self, app: Application, names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = {
            name: value
            for name, value in scope.get("headers", ())
            if name == b"host" or name in _OF_BROWSERS
        }
        host = headers.pop(b"host", None)
        if not headers or host is None or self._is_allowed(host.decode("latin-1")):
            await self._app(scope, receive, send)
            return
        head = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(_REFUSAL))]
        await send({"type": "http.response.start", "status": 421, "headers": head})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else _REFUSAL}
        )

    def _is_allowed(self, host: str) -> bool:
        name = host_name(host)
        if name == "localhost" or name.endswith(".localhost") or name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
