"""Realms: where registries let clients sign in, and which of these are trusted.

Credentials go to a realm of the registry's own host or domain only, or to one that the built-in
table or ``settings.toml`` names (GHSA-3p65-76g6-3w7r describes what happens otherwise).
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import httpx

from entrepot.core.hosts import is_loopback, literal_address
from entrepot.core.registries import LoginServerInvalid, parse_login_server
from entrepot.formatting import printable
from entrepot.source.addresses import Reach, parse_address
from entrepot.source.errors import SourceRefused
from entrepot.source.http import origin_of, same_origin

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

    from entrepot.core.registries import SourceRegistry

SHARED_DOMAINS = frozenset(
    {
        # Registries that give each customer a name: credentials never go to another customer's.
        "azurecr.cn",
        "azurecr.io",
        "azurecr.us",
        "cloudsmith.io",
        "container-registry.com",
        "jfrog.info",
        "jfrog.io",
        "myhuaweicloud.com",
        "ocir.io",
        "pkg.dev",
        "tencentcloudcr.com",
        "vultrcr.com",
        # Clouds of which the public suffix list has some services only; ECR is not one of them.
        "aliyuncs.com",
        "amazonaws.com",
        "amazonaws.com.cn",
        "azure.com",
        "container-registry.ovh.net",
        "myqcloud.com",
        "scw.cloud",
        "windows.net",
        # Platforms and tunnels that the list does not have.
        "app.github.dev",
        "azurecontainerapps.io",
        "devtunnels.ms",
        "gitpod.io",
        "koyeb.app",
        "lhr.life",
        "loca.lt",
        "localhost.run",
        "railway.app",
        "serveo.net",
        # Names for any address.
        "nip.io",
        "sslip.io",
    }
)
"""Domains below which anyone can register a name, besides those of the public suffix list.

Two names below one of them belong to two owners.
"""

_ALIYUN = re.compile(r"[a-z0-9-]+\.([a-z0-9-]+)(?:\.cr)?\.aliyuncs\.com")
_ALIYUN_SIGN_IN = re.compile(r"dockerauth(?:-[a-z]+)*\.([a-z0-9-]+)\.aliyuncs\.com")

_NOT_SENT = "No credential was sent."


def check_realm(realm: str, registry: SourceRegistry) -> httpx.URL:
    """The address of a realm to which credentials for *registry* may go.

    Raises `SourceRefused` for any other. It must be of the registry's own host or domain, or one of
    its realms in the table and the settings, and https unless the registry's endpoint itself is
    http.
    """
    url, is_own = read_realm(realm, registry)
    if is_own:
        return url
    host = printable(url.host, 253)
    raise SourceRefused(
        f"{registry.login_server} asks for a sign-in at {host}, which is not its own.",
        f"{_NOT_SENT} Create a cache rule with {host} as its source, where the image is; or, if "
        "the registry really signs in there, declare it in settings.toml: "
        f'realms = ["{origin_of(url)}"] below [upstreams."{registry.login_server}"].',
    )


def read_realm(realm: str, registry: SourceRegistry) -> tuple[httpx.URL, bool]:
    """The address of a realm, and whether it is the registry's own.

    Raises `SourceRefused` where it can't be used. A registry that redirects to another one names
    that one's realm, where its clients get their tokens: without credentials that does no harm.
    """
    endpoint = httpx.URL(registry.endpoint)
    url = parse_address(realm)
    if url is None or url.scheme not in {"http", "https"} or url.userinfo:
        raise SourceRefused(
            f"{registry.login_server} asks for a sign-in at an address that can't be used.",
            _NOT_SENT,
        )
    host = printable(url.host, 253)
    if url.scheme == "http" and endpoint.scheme == "https":
        raise SourceRefused(
            f"{registry.login_server} asks for a sign-in at {host} over http, "
            "where the password could be read on the way.",
            _NOT_SENT,
        )
    return url, _is_own(url, endpoint, registry) or any(
        same_origin(url, httpx.URL(declared)) for declared in registry.realms
    )


def rule_elsewhere(host: str) -> str:
    """Advice where a redirect leads to *host*, a registry that requires credentials."""
    try:
        name = parse_login_server(host)
    except LoginServerInvalid:
        name = printable(host, 253)
    return (
        f"Create a cache rule with {name} as its source, and give it a credential set for {name}: "
        "those of another registry are never sent there."
    )


def _is_own(realm: httpx.URL, endpoint: httpx.URL, registry: SourceRegistry) -> bool:
    own_hosts = {endpoint.host, httpx.URL(f"//{registry.login_server}").host}
    if realm.host in own_hosts:
        return True
    if is_loopback(realm.host):
        return Reach.of(registry).loopback
    if registrable_domain(realm.host) in {registrable_domain(host) for host in own_hosts}:
        return True
    # Alibaba's registries sign in at another host of their region, which no customer can have.
    sign_in = _ALIYUN_SIGN_IN.fullmatch(realm.host)
    return sign_in is not None and any(
        (aliyun := _ALIYUN.fullmatch(host)) and aliyun[1] == sign_in[1] for host in own_hosts
    )


def registrable_domain(host: str) -> str:
    """The part of a host name that one owner registered.

    It is the host itself below a shared domain, and where the host is an address. By the public
    suffix list, its private section too (https://publicsuffix.org): ``example.co.uk``,
    ``acme.gitlab.io``. Names are ASCII or decoded IDNA.
    """
    name = host.lower().rstrip(".")
    labels = name.split(".")
    if literal_address(host) is not None:
        return host
    if any(".".join(labels[at:]) in SHARED_DOMAINS for at in range(len(labels))):
        return name
    return _private_suffix(name) or name


def _private_suffix(name: str) -> str | None:
    domain = _public_suffixes().privatesuffix(name)
    return domain if isinstance(domain, str) else None


@functools.cache
def _public_suffixes() -> PublicSuffixList:
    # It takes 40 ms to load, and is needed only where a realm has another host than its registry.
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
