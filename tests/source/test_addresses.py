"""Where a source may lead us: literal addresses in every form, and what names are resolved to."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

import httpx
import pytest

from entrepot.core.hosts import is_loopback, literal_address
from entrepot.core.reference import Repository, Tag
from entrepot.core.registries import DeclaredRegistry, SourceRegistries, SourceRegistry
from entrepot.core.states import SignIn
from entrepot.source import sockets
from entrepot.source.addresses import AddressRefused, Reach, is_local, parse_address
from entrepot.source.errors import SourceAnswerInvalid, SourceUnreachable
from entrepot.source.sources import Sources
from tests.fakes import FakeRegistry, Redirect, TokenSignIn
from tests.source.conftest import registry

NGINX = Repository("library/nginx")
LATEST = Tag("latest")

LOCAL = [
    *(
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "0177.1",
        "0177.0.0.01",
        "127.0.0.1.",
        "0",
        "0.0.0.0",
        "0.0.0.7",
    ),
    *("169.254.169.254", "0xa9fea9fe", "2852039166", "224.0.0.1", "255.255.255.255"),
    *(
        "::",
        "::1",
        "fe80::1",
        "fe80::1%2",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "::7f00:1",
    ),
    *(
        "64:ff9b::7f00:1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::",
        "2001:0:a9fe:a9fe::",
    ),
    *("::ffff:0:127.0.0.1", "::ffff:0:a9fe:a9fe"),
    *("168.63.129.16", "100.100.100.200", "fd00:ec2::254"),
    *("localhost", "LOCALHOST.", "registry.localhost"),
]
FOREIGN = [
    *(
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "8.8.8.8",
        "134744072",
        "fc00::1",
        "fd12::1",
        "2606:4700::1111",
        "64:ff9b::808:808",
    ),
    *(
        "docker.io",
        "127.0.0.1.example",
        "3com.example",
        "localhost.example.com",
        "0xyz.example",
        "::ffff:8.8.8.8",
        "2002:808:808::1",
        "::ffff:0:8.8.8.8",
    ),
]


@pytest.mark.parametrize("host", LOCAL)
def test_addresses_of_this_machines_surroundings_are_known_in_every_form(host: str) -> None:
    """S21: `inet_aton` reads more forms than anybody writes, and IPv6 carries IPv4 in many ways."""
    assert is_local(host)
    assert not Reach().permits_host(host)


@pytest.mark.parametrize("host", FOREIGN)
def test_private_and_public_addresses_and_names_are_not_local(host: str) -> None:
    assert not is_local(host)
    assert Reach().permits_host(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f.1", "::1", "::ffff:127.0.0.1", "localhost"])
def test_loopback_is_this_machine_itself(host: str) -> None:
    assert is_loopback(host)
    assert Reach(loopback=True).permits_host(host)


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "0.0.0.0", "::", "fe80::1", "224.0.0.1", "::ffff:169.254.169.254"]
)
def test_a_registry_on_this_machine_leads_to_loopback_only(host: str) -> None:
    """S21: the secrets of a cloud's machine are not part of a registry that runs on it."""
    assert not Reach(loopback=True).permits_host(host)
    assert not Reach(loopback=True).permits_address(host)


def test_what_is_no_address_is_a_name() -> None:
    assert [
        literal_address(each) for each in ("docker.io", "", "1.2.3.4.5", "x" * 10_000, "١٢٧.0.0.1")
    ] == [None] * 5


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "http://",
            "http:///x",
            "//",
            "nonsense",
            "http://127.0.0.1:99999/x",
            "http://127.0.0.1:0/x",
            "http://a..b/x",
            "http://.a/x",
            "http://a b/x",
        ),
        *(
            f"http://{'a' * 64}.example/x",
            f"http://{'a.' * 127}example/x",
            "https://xn--/x",
            "http://[/x",
            "http://[::1/x",
            "http://[fe80::zz]/x",
        ),
        *(
            "http://a%00b/x",
            "http://\u202e.com/x",
            "http://①②⑦.0.0.1/",
            "http://a\r\nb/",
            "http://127.0.0.1:port/",
            f"http://a/{'x' * 10_000}",
        ),
    ],
)
def test_an_address_to_which_no_request_can_be_sent_is_none(text: str) -> None:
    """S02, F67: each of these raised something of its own, from four libraries."""
    assert parse_address(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "/x?y=%2F",
        "http://é.example/x",
        "https://cdn.example:8443/a?b",
        "http://[2606:4700::1]:80/x",
        "http://a_b.example/",
        "//cdn.example/x",
    ],
)
def test_other_addresses_are_read_as_they_are_written(text: str) -> None:
    assert parse_address(text, httpx.URL("https://registry.example/")) == httpx.URL(
        "https://registry.example/"
    ).join(text)


# What the configuration places here


def test_only_what_the_administrator_named_may_be_on_this_machine() -> None:
    """S21."""
    table = SourceRegistries()
    for server in ("docker.io", "acme.azurecr.io", "nvcr.io", "ghcr.io"):
        assert Reach.of(table.find(server)) == Reach()
    declared = SourceRegistries(
        [
            DeclaredRegistry(
                "r.example.com", endpoint="https://vm:8443", realms=("https://auth.example.net",)
            ),
            DeclaredRegistry("docker.io", endpoint="https://mirror.corp"),
        ]
    )
    assert Reach.of(declared.find("r.example.com")) == Reach(
        frozenset({"r.example.com", "vm", "auth.example.net"})
    )
    assert Reach.of(declared.find("docker.io")) == Reach(frozenset({"docker.io", "mirror.corp"}))
    with_realm = SourceRegistries([DeclaredRegistry("nvcr.io", realms=("https://auth.corp",))])
    assert Reach.of(with_realm.find("nvcr.io")) == Reach(frozenset({"auth.corp"}))
    local = SourceRegistries(
        [DeclaredRegistry("r.example.com", None, SignIn.NONE, "http://127.0.0.1:5001")]
    )
    assert Reach.of(local.find("r.example.com")).loopback


def resolving(monkeypatch: pytest.MonkeyPatch, **names: str) -> list[str]:
    """Names that resolve to these addresses; gives those that were looked up."""
    seen: list[str] = []

    def getaddrinfo(host: str, port: object, **_: object) -> list[tuple[object, ...]]:
        seen.append(host)
        if (addresses := names.get(host.replace(".", "_"))) is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, 0, 0, 0))
            if ":" in each
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0))
            for each in addresses.split()
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return seen


@pytest.fixture
def vm(source: FakeRegistry) -> SourceRegistry:
    """The stand-in as a registry whose endpoint is a name."""
    return registry(f"http://vm.example:{source.port}")


async def test_a_declared_name_may_be_on_this_machine(
    sources: Sources, source: FakeRegistry, vm: SourceRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, vm_example="127.0.0.1")
    image = source.add_image("library/nginx", "latest")
    assert (await sources.client(vm, None).manifest(NGINX, LATEST)).digest == image.digest


@pytest.mark.parametrize(
    "location",
    [
        "http://0x7f.1:{port}/secret",
        "http://0x7f000001:{port}/secret",
        "http://2130706433:{port}/",
        "http://inside.example:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[64:ff9b::7f00:1]:{port}/x",
        "http://0177.1:{port}/x",
    ],
)
async def test_a_redirect_reaches_nothing_on_this_machine_by_number_or_name(
    sources: Sources,
    source: FakeRegistry,
    vm: SourceRegistry,
    monkeypatch: pytest.MonkeyPatch,
    location: str,
) -> None:
    """S21: with an http endpoint each of these reached a service that listens on loopback only."""
    resolving(
        monkeypatch,
        vm_example="127.0.0.1",
        inside_example="127.0.0.1",
        **{
            "0x7f_1": "127.0.0.1",
            "0x7f000001": "127.0.0.1",
            "2130706433": "127.0.0.1",
            "0177_1": "127.0.0.1",
        },
    )
    async with FakeRegistry() as inside:
        source.fault("/manifests/", Redirect(location.format(port=inside.port)))
        with pytest.raises(SourceAnswerInvalid, match="a local address"):
            await sources.client(vm, None).manifest(NGINX, LATEST)
        assert not inside.requests


async def test_every_hop_is_judged(
    sources: Sources, source: FakeRegistry, vm: SourceRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S21: the first redirect leads to the source's own host."""
    resolving(monkeypatch, vm_example="127.0.0.1", inside_example="127.0.0.1")
    async with FakeRegistry() as inside:
        source.fault("/manifests/", Redirect("/second"))
        source.fault("/second", Redirect(f"http://inside.example:{inside.port}/"))
        with pytest.raises(SourceAnswerInvalid, match=r"leads to inside\.example"):
            await sources.client(vm, None).manifest(NGINX, LATEST)
        assert not inside.requests


async def test_the_realm_is_judged_after_its_look_up(
    sources: Sources, source: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S21: a realm below the registry's own domain may resolve to anything."""
    resolving(monkeypatch, r_example_com="127.0.0.1", auth_example_com="127.0.0.1")
    async with FakeRegistry() as inside:
        source.sign_in = TokenSignIn(realm=f"http://auth.example.com:{inside.port}/token")
        with pytest.raises(
            SourceAnswerInvalid,
            match=r"auth\.example\.com, which is a local address",
        ):
            await sources.client(
                registry(f"http://r.example.com:{source.port}", "r.example.com"), None
            ).manifest(NGINX, LATEST)
        assert not inside.requests


async def test_a_registry_of_the_table_is_never_this_machine(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S21: a name server, or who speaks for it, says that Docker Hub is here."""
    resolving(monkeypatch, **{"registry-1_docker_io": "127.0.0.1 ::1 169.254.169.254"})
    with pytest.raises(
        SourceAnswerInvalid,
        match=r"registry-1\.docker\.io, which is a local address",
    ) as raised:
        await sources.client(SourceRegistries().find("docker.io"), None).head_manifest(
            NGINX, LATEST
        )
    assert "settings.toml" in raised.value.hint
    assert sources.breakers.opened_first("docker.io") is None, (
        "a host that was not asked is not given up"
    )


async def test_of_several_addresses_only_the_permitted_ones_are_tried(
    monkeypatch: pytest.MonkeyPatch,
    new_transport: Callable[..., httpx.AsyncBaseTransport],
) -> None:
    """S21: happy eyeballs tries one after another."""
    resolving(monkeypatch, cdn_example="127.0.0.1 ::1 10.255.255.1 169.254.169.254")
    tried: list[str] = []

    def make(address: tuple[object, ...], reach: Reach | None = None) -> socket.socket:
        tried.append(address[4][0])  # type: ignore[index]
        raise OSError("not here")

    monkeypatch.setattr(sockets, "open_socket", make)
    sends = new_transport(ssl.create_default_context(), connections=2)
    async with httpx.AsyncClient(transport=sends, trust_env=False) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("http://cdn.example/x")
    assert tried == ["10.255.255.1"]


async def test_the_socket_itself_is_judged_whatever_the_look_up_said(
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
    new_transport: Callable[..., httpx.AsyncBaseTransport],
) -> None:
    """S21: the last of the three judgements, which also sees what a cache of look-ups says."""
    monkeypatch.setattr(Reach, "permits_host", lambda *_: True)
    sends = new_transport(ssl.create_default_context(), connections=2)
    async with httpx.AsyncClient(transport=sends, trust_env=False) as http:
        with pytest.raises(AddressRefused):
            await http.get(source.url)
    assert not source.requests


async def test_through_a_proxy_literal_addresses_are_judged_and_names_are_the_proxys(
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
    new_transport: Callable[..., httpx.AsyncBaseTransport],
) -> None:
    """S21: the proxy may run on this machine, and what it is asked for must not."""
    monkeypatch.setenv("http_proxy", source.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    sends = new_transport(ssl.create_default_context(), connections=2)
    async with httpx.AsyncClient(transport=sends, trust_env=False) as http:
        await http.get("http://registry.example/v2/")
        assert source.requests[0].target == "http://registry.example/v2/"
        for refused in ("http://169.254.169.254/x", "http://0x7f.1/x"):
            with pytest.raises(AddressRefused):
                await http.get(refused)
    assert len(source.requests) == 1


# What no library takes


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:99999/x",
        f"http://{'a' * 64}.example/x",
        "http://a..b/x",
        "https://xn--/x",
        "http://[::1",
        "http://[v1.a]/",
        "http://\udcff/",
        "http://a%00b/",
        "http://a\x7fb/x",
        "//:0",
    ],
)
@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_that_no_library_takes_is_an_invalid_answer(
    opened: Callable[..., Sources], location: str, status: int
) -> None:
    """S02, F66: ValueError, UnicodeError and idna errors went past every handler, and a fill was
    never told."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            status, headers=[(b"Location", location.encode("utf-8", "surrogateescape"))]
        )

    client = opened(transport=httpx.MockTransport(answer)).client(
        registry("http://127.0.0.1:5000"), None
    )
    with pytest.raises(SourceAnswerInvalid) as raised:
        await client.manifest(NGINX, LATEST)
    assert raised.value.hint
    assert raised.value.what.isprintable()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Port out of range 0-65535"),
        UnicodeError("label too long"),
        OverflowError("int too large"),
        RecursionError(),
        httpx.InvalidURL("x"),
        httpx.UnsupportedProtocol("x"),
    ],
)
async def test_whatever_a_transport_refuses_to_send_is_an_invalid_answer(
    opened: Callable[..., Sources], error: Exception
) -> None:
    """S02: the net below `parse_address`."""

    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    sources = opened(transport=httpx.MockTransport(answer))
    with pytest.raises(SourceAnswerInvalid, match="to which no request can be made"):
        await sources.client(registry("https://r.example"), None).manifest(NGINX, LATEST)
    assert sources.breakers.opened_first("docker.io") is None


async def test_hosts_that_a_source_invents_are_given_up_in_bounded_number(
    opened: Callable[..., Sources],
) -> None:
    """S18: each host that is given up is a task that tries it again."""
    numbers = iter(range(10_000))

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "r.example":
            return httpx.Response(307, headers={"Location": f"https://h{next(numbers)}.example/"})
        raise httpx.ConnectError("no")

    sources = opened(transport=httpx.MockTransport(answer))

    async def never(_: float) -> None:
        await asyncio.Event().wait()

    sources.breakers.wait = never
    client = sources.client(registry("https://r.example"), None)
    for _ in range(60):
        with pytest.raises(SourceUnreachable):
            await client.head_manifest(NGINX, LATEST)
    given_up = [each for each in sources.breakers._breakers.values() if each.since is not None]
    assert 0 < len(given_up) <= 32
