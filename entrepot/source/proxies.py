"""Proxies of the environment: ``HTTP_PROXY``, ``HTTPS_PROXY`` and the like.

The variables are these two, ``ALL_PROXY`` and ``NO_PROXY``. Each is read in lower case first, then
in upper case; an empty one counts as not set (curl(1), "ENVIRONMENT"). ``HTTP_PROXY`` is for
sources over http and ``HTTPS_PROXY`` for those over https; ``ALL_PROXY`` is for both where these
are not set. A proxy speaks http, https or SOCKS5. It looks up the names of sources itself, with
``socks5`` as with ``socks5h``, as in Go's net/http.

``NO_PROXY`` is read as in Go (golang.org/x/net/http/httpproxy), because docker, containerd and
podman do so. Where Go takes an entry for a name that can't exist, it is read as in curl(1): blanks
separate entries too, an address of IPv6 may have brackets, and a dot at the end is ignored. An
entry is

- ``*``: no source is reached through a proxy;
- an address (``10.0.0.7``, ``fd00::7``) or a network (``10.0.0.0/8``, ``fd00::/8``): sources whose
  URL has such an address; names are not looked up for it;
- ``example.com``: that host and all below it;
- ``.example.com`` or ``*.example.com``: all hosts below it;
- one of these with a port, except networks: only that port.

Requests to this machine itself never go through a proxy.
"""

from __future__ import annotations

import base64
import functools
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import quote, unquote, urlsplit

import httpx

from entrepot.core.hosts import literal_address
from entrepot.errors import EntrepotError
from entrepot.formatting import printable
from entrepot.source.addresses import is_local, parse_address

SOCKS_SCHEMES = frozenset({"socks5", "socks5h"})
"""Kinds of SOCKS proxies."""

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
"""The port of a proxy whose address has none, by its scheme, as in Go's net/http."""

MAX_PROBLEMS = 20
"""How many entries of NO_PROXY are reported as unusable at most."""

_SOCKS_WORD = 255
"""The longest user name or password of SOCKS5, in bytes (RFC 1929)."""

_RESTART = "Change it where the engine gets its environment, and start the engine again."
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"[^\s/@*\[\]:;|'\"<>]+")


class ProxyUnusable(EntrepotError):
    """A proxy of the environment, or an entry of NO_PROXY, that can't be used.

    *variable* is its name as it is set. The text has neither the user name nor the password of the
    proxy.
    """

    code = "ProxyUnusable"
    status = oci_status = 503

    def __init__(self, variable: str, what: str, hint: str) -> None:
        super().__init__(what, hint)
        self.variable = variable


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy of the environment.

    *scheme* is http, https, socks5 or socks5h; *variable* is the one that names it.
    """

    scheme: str
    host: str
    port: int
    variable: str
    username: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS5, and not HTTP."""
        return self.scheme in SOCKS_SCHEMES

    @property
    def place(self) -> str:
        """Host and port, for messages: without user name and password."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def address(self) -> str:
        """Its URL without user name and password."""
        return f"{self.scheme}://{self.place}"

    @property
    def url(self) -> str:
        """Its URL, which may hold a password."""
        if self.username is None:
            return self.address
        username, password = quote(self.username, safe=""), quote(self.password, safe="")
        return f"{self.scheme}://{username}:{password}@{self.place}"

    @property
    def authorization(self) -> str | None:
        """The value of its Proxy-Authorization header (RFC 7617, in UTF-8).

        None without a user name.
        """
        if self.username is None:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class ProxyFailed(httpx.ProxyError):
    """A proxy could not be reached, or refuses: the source got no request.

    *status* is that of its response, where it speaks HTTP (407: it requires a user name and a
    password), *reason* its message where it speaks SOCKS. ``__cause__`` is the underlying error.
    """

    def __init__(
        self, message: str, proxy: Proxy, status: int | None = None, *, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.proxy = proxy
        self.status = status
        self.reason = reason


class BehindProxyUnreachable(httpx.ConnectError):
    """A SOCKS proxy says that it can't or may not connect to the source.

    *reason* is its message.
    """

    def __init__(self, message: str, proxy: Proxy) -> None:
        super().__init__(message)
        self.proxy = proxy
        self.reason = message


@dataclass(frozen=True, slots=True)
class _NoProxyEntry:
    """An entry of NO_PROXY.

    A *host* starts with a dot; *itself*: the entry names it too, and not only the hosts below.
    """

    network: IPv4Network | IPv6Network | None = None
    host: str = ""
    itself: bool = False
    port: int | None = None

    def matches(
        self, host: str, address: IPv4Address | IPv6Address | None, port: int | None
    ) -> bool:
        """Whether the entry names a source."""
        if self.port is not None and self.port != port:
            return False
        if address is not None or self.network is not None:
            return address is not None and self.network is not None and address in self.network
        return host.endswith(self.host) or (self.itself and host == self.host[1:])


@dataclass(frozen=True, slots=True)
class _NoProxy:
    """NO_PROXY. *unreadable* are the entries that name nothing."""

    everything: bool
    entries: tuple[_NoProxyEntry, ...]
    unreadable: tuple[str, ...]

    def match(self, url: httpx.URL) -> bool:
        """Whether *url* is reached without a proxy."""
        if self.everything:
            return True
        host = url.raw_host.decode("ascii").strip("[]").lower().rstrip(".")
        address = _ipv4_if_mapped(literal_address(host))
        port = url.port if url.port is not None else _PORTS.get(url.scheme)
        return any(entry.matches(host, address, port) for entry in self.entries)


def proxy_of(url: httpx.URL, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy for *url*; None where it has none. Raises `ProxyUnusable`.

    *environment* takes the place of the process's own.
    """
    environment = os.environ if environment is None else environment
    setting = _setting_for(url.scheme, environment)
    if setting is None or is_local(url.host):
        return None
    if _parse_no_proxy(_first(environment, "no_proxy")[1]).match(url):
        return None
    proxy = _parse(*setting)
    if isinstance(proxy, str):
        raise ProxyUnusable(setting[0], proxy, _RESTART)
    return proxy


def environment_problems(environment: Mapping[str, str] | None = None) -> list[ProxyUnusable]:
    """What can't be used of the variables for proxies.

    *environment* takes the place of the process's own.
    """
    environment = os.environ if environment is None else environment
    problems: list[ProxyUnusable] = []
    for variable, value in dict.fromkeys(
        filter(None, (_setting_for(scheme, environment) for scheme in ("https", "http")))
    ):
        proxy = _parse(variable, value)
        if isinstance(proxy, str):
            problems.append(ProxyUnusable(variable, proxy, _RESTART))
    if problems or any(_setting_for(scheme, environment) for scheme in ("https", "http")):
        variable, value = _first(environment, "no_proxy")
        problems += (
            ProxyUnusable(
                variable,
                f"The entry {printable(entry, 100)} of {variable} names no host, address or "
                "network: it is ignored.",
                "Write a host, .domain, an address, or a network such as 10.0.0.0/8; commas "
                f"separate them. {_RESTART}",
            )
            for entry in _parse_no_proxy(value).unreadable[:MAX_PROBLEMS]
        )
    return problems


def _first(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """Name and value of a variable in lower or upper case; an empty one is not set."""
    for variable in (name, name.upper()):
        if value := environment.get(variable, "").strip():
            return variable, value
    return name.upper(), ""


def _setting_for(scheme: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Name and value of the variable that names the proxy for a scheme."""
    if scheme not in {"http", "https"}:
        return None
    for name in (f"{scheme}_proxy", "all_proxy"):
        variable, value = _first(environment, name)
        if value:
            return variable, value
    return None


@functools.lru_cache(maxsize=16)
def _parse(variable: str, value: str) -> Proxy | str:
    """The proxy that a variable names, or a sentence that says why it can't be used."""
    unreadable = (
        f"{variable} in the engine's environment can't be read as the address of a proxy. "
        "It must be like http://host:port or socks5://host:port, with special characters of a user "
        "name or a password percent-encoded."
    )
    scheme_of = _SCHEME.match(value)
    scheme = scheme_of[1].lower() if scheme_of is not None else "http"
    if scheme not in _PORTS:
        return (
            f"{variable} in the engine's environment names a proxy of the kind "
            f"{printable(scheme, 20)}, which Entrepot does not support. "
            "It supports http, https, socks5 and socks5h."
        )
    try:
        parts = urlsplit(value if scheme_of is not None else f"http://{value.removeprefix('//')}")
        host, port = parts.hostname or "", parts.port
        username, password = parts.username, parts.password
    except ValueError:
        return unreadable
    # A password with an unencoded "/", "?" or "#" ends the host in its middle.
    if parts.path not in {"", "/"} or parts.query or parts.fragment or port == 0:
        return unreadable
    if parse_address(f"http://[{host}]" if ":" in host else f"http://{host}") is None:
        return unreadable
    username = None if username is None else unquote(username)
    password = unquote(password or "")
    if any(not word.isprintable() for word in (username or "", password)):
        return unreadable
    if scheme in SOCKS_SCHEMES and username is not None:
        words = (username, password)
        if not all(word.isascii() and 0 < len(word) <= _SOCKS_WORD for word in words):
            return (
                f"{variable} in the engine's environment names a SOCKS proxy with a user name or a "
                "password that SOCKS5 can't carry. "
                "Both must be set, with 1 to 255 ASCII characters."
            )
    return Proxy(
        scheme, host, port if port is not None else _PORTS[scheme], variable, username, password
    )


@functools.lru_cache(maxsize=16)
def _parse_no_proxy(value: str) -> _NoProxy:
    """Parse NO_PROXY, as the docstring of this module says."""
    entries: list[_NoProxyEntry] = []
    unreadable: list[str] = []
    for text in re.split(r"[\s,]+", value.lower()):
        if text == "*":
            return _NoProxy(True, (), ())
        entry = _parse_no_proxy_entry(text) if text else None
        if entry is not None:
            entries.append(entry)
        elif text:
            unreadable.append(text)
    return _NoProxy(False, tuple(entries), tuple(unreadable))


def _parse_no_proxy_entry(text: str) -> _NoProxyEntry | None:
    if "/" in text:
        try:
            return _NoProxyEntry(
                network=ipaddress.ip_network(text.replace("[", "").replace("]", ""), strict=False)
            )
        except ValueError:
            return None
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]") or (":" in host and not host.endswith("]")):
        # No port: a name, or an address of IPv6, with or without brackets.
        host, port = text, ""
    elif not _PORT.fullmatch(port):
        return None
    number = int(port) if port else None
    host = (
        host.removeprefix("[").removesuffix("]")
        if host.startswith("[") and host.endswith("]")
        else host
    )
    try:
        address = _ipv4_if_mapped(ipaddress.ip_address(host))
        assert address is not None
        return _NoProxyEntry(network=ipaddress.ip_network(address), port=number)
    except ValueError:
        pass
    host = host.removeprefix("*").rstrip(".") if host.startswith("*.") else host.rstrip(".")
    itself = not host.startswith(".")
    host = host if itself else host[1:]
    if not _NAME.fullmatch(host):
        return None
    if not host.isascii():
        try:
            host = httpx.URL(f"http://{host}").raw_host.decode("ascii")
        except (httpx.InvalidURL, ValueError):
            return None
    return _NoProxyEntry(host=f".{host}", itself=itself, port=number)


def _ipv4_if_mapped(address: IPv4Address | IPv6Address | None) -> IPv4Address | IPv6Address | None:
    """The IPv4 address that an IPv6 address maps; in Go both are equal (net.IP.Equal)."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
