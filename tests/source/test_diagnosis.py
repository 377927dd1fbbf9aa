"""Whose fault it is that a source can't be reached: each fault brought about for real."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import tomllib
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest

from entrepot.causes import Cause, CauseCode, Fault, at_fault
from entrepot.core.reference import Repository, Tag
from entrepot.core.registries import DeclaredRegistry, SourceRegistries
from entrepot.core.states import SignIn
from entrepot.source import diagnosis
from entrepot.source.addresses import Reach
from entrepot.source.certificate_causes import unknown_issuer_cause, wrong_name_cause
from entrepot.source.certificate_probe import Certificate, fetch_certificate
from entrepot.source.diagnosis import Diagnosis
from entrepot.source.errors import SourceUnreachable
from entrepot.source.failed_request import RequestTarget
from entrepot.source.proxies import Proxy, ProxyFailed
from entrepot.source.proxy_causes import (
    proxy_failure_cause,
    proxy_status_cause,
    through_proxy_cause,
)
from entrepot.source.sources import Sources
from tests.authority import CertificateAuthority
from tests.fakes import FakeRegistry, Headers
from tests.programs import require_program, require_root
from tests.source.conftest import Clock, failure, registry, verify_paths
from widgets.text import wrapped

NGINX, LATEST = Repository("library/nginx"), Tag("latest")

pytestmark = pytest.mark.usefixtures("each_transport")


@pytest.fixture
def clock() -> Clock:
    """As it is: the certificates of these tests are judged by OpenSSL, which asks the system."""
    return Clock(datetime.now(UTC).timestamp())


# Certificates


@pytest.mark.parametrize(
    ("server", "code", "what"),
    [
        (
            {},
            CauseCode.CERTIFICATE_UNTRUSTED,
            "this machine does not trust the issuer of its certificate, Example Root",
        ),
        (
            {"is_public": True},
            CauseCode.CERTIFICATE_CHAIN_INCOMPLETE,
            "it sends its certificate without that of the issuer, Example Root",
        ),
    ],
)
async def test_the_issuer_of_a_certificate_that_is_not_trusted_is_named(
    opened: Callable[..., Sources],
    authority: CertificateAuthority,
    server: dict[str, bool],
    code: CauseCode,
    what: str,
) -> None:
    async with FakeRegistry(tls=authority.server(**server)) as source:  # type: ignore[arg-type]
        error = await failure(opened(), source.url)
        assert (error.cause, what in error.what, "ca_file" in error.hint) == (code, True, True)
        assert not source.requests, "nothing was sent to it"


async def test_an_intermediate_that_a_server_sends_completes_the_chain(
    opened: Callable[..., Sources], authority: CertificateAuthority, tmp_path: Path
) -> None:
    issuer = CertificateAuthority(tmp_path, "Example Issuing", authority)
    async with FakeRegistry(tls=issuer.server(is_public=True)) as source:
        source.add_image("library/nginx", "latest")
        await (
            opened(ca_file=authority.path)
            .client(registry(source.url), None)
            .head_manifest(NGINX, LATEST)
        )
    async with FakeRegistry(tls=issuer.server(is_public=True, chain=False)) as source:
        error = await failure(opened(ca_file=authority.path), source.url)
    assert error.cause is CauseCode.CERTIFICATE_CHAIN_INCOMPLETE
    assert "without that of the issuer, Example Issuing" in error.what


async def test_a_certificate_for_other_names_says_for_which(
    opened: Callable[..., Sources], authority: CertificateAuthority
) -> None:
    async with FakeRegistry(
        tls=authority.server(("one.example", "two.example", "three.example", "four.example"))
    ) as source:
        error = await failure(opened(ca_file=authority.path), source.url)
    assert error.cause is CauseCode.CERTIFICATE_WRONG_NAME
    assert (
        "its certificate is only for one.example, two.example, three.example and 1 more."
        in error.what
    )


async def test_a_certificate_that_expired_is_the_sources_fault_where_the_clock_is_right(
    opened: Callable[..., Sources], authority: CertificateAuthority
) -> None:
    ended = datetime.now(UTC) - timedelta(days=40)
    async with FakeRegistry(
        tls=authority.server(begins=ended - timedelta(days=90), ends=ended)
    ) as source:
        source.fault("/v2/", Headers({"Date": formatdate(usegmt=True)}))
        error = await failure(opened(ca_file=authority.path), source.url)
    assert (error.cause, error.oci_status) == (CauseCode.CERTIFICATE_EXPIRED, 503)
    assert f"its certificate expired on {ended:%Y-%m-%d}." in error.what
    assert "must renew it" in error.hint


@pytest.mark.parametrize("chain", [True, False], ids=["whole chain", "certificate alone"])
async def test_the_advice_to_name_the_issuer_as_ca_file_holds_for_one_below_another_authority(
    opened: Callable[..., Sources], tmp_path: Path, authority: CertificateAuthority, chain: bool
) -> None:
    issuer = CertificateAuthority(tmp_path, "Example Issuer", authority)
    async with FakeRegistry(tls=issuer.server(chain=chain)) as source:
        image = source.add_image(str(NGINX), LATEST)
        error = await failure(opened(), source.url)
        assert "name its certificate as ca_file in settings.toml" in error.hint
        client = opened(ca_file=issuer.path).client(registry(source.url), None)
        assert (await client.head_manifest(NGINX, LATEST)).digest == image.digest


@pytest.mark.parametrize("old", ["version", "cipher"])
async def test_a_source_with_old_tls_only_is_told_apart(
    opened: Callable[..., Sources], authority: CertificateAuthority, old: str
) -> None:
    context = authority.server()
    if old == "version":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    else:
        # For RSA keys, and this server has another one: no cipher is in common.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES128-SHA256")

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                # Not asyncio's server, which ends such a connection without saying why.
                with suppress(OSError), context.wrap_socket(connection, server_side=True):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            error = await failure(
                opened(ca_file=authority.path), f"https://127.0.0.1:{server.getsockname()[1]}"
            )
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert (error.cause, "TLS 1.2" in error.hint) == (CauseCode.TLS_TOO_OLD, True)


async def test_a_source_that_ends_the_connection_within_the_handshake_takes_connections(
    opened: Callable[..., Sources],
) -> None:
    async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(leave, "127.0.0.1", 0) as server:
        error = await failure(opened(), f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert (error.cause, "before TLS is agreed on" in error.what) == (
        CauseCode.CONNECTION_ENDED,
        True,
    )


async def test_plain_http_on_a_port_for_https_is_named_with_the_endpoint_that_would_do(
    opened: Callable[..., Sources],
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # As nginx and Go's server do: what is no HTTP gets a 400 at once.
        begun = await reader.read(1)
        status = b"400 Bad Request" if begun == b"\x16" else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        error = await failure(opened(), f"https://{place}")
    assert (error.cause, "speaks plain HTTP" in error.what) == (CauseCode.PLAIN_HTTP, True)
    assert f'endpoint = "http://{place}" below [upstreams."docker.io"]' in error.hint


async def test_the_advice_to_declare_plain_http_can_be_followed_beyond_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where credentials would leave the machine in clear, settings.toml takes no such endpoint
    without sign_in."""

    async def yes(*_: object) -> bool:
        return True

    monkeypatch.setattr(diagnosis, "speaks_http", yes)
    failed = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]")
    failed.reason = "WRONG_VERSION_NUMBER"
    place = RequestTarget("registry.corp", httpx.URL("https://registry.corp:5000"), Reach())
    cause = await Diagnosis(probes=True).cause(failed, place)
    assert cause.code == CauseCode.PLAIN_HTTP
    lines = cause.hint.split("settings.toml: ")[1].split(" below ")[0].replace(" and ", "\n")
    declared = tomllib.loads(lines)
    upstream = DeclaredRegistry(
        "registry.corp", None, SignIn(declared["sign_in"]), declared["endpoint"]
    )
    SourceRegistries([upstream])


async def test_a_port_that_speaks_something_else_is_not_taken_for_http(
    opened: Callable[..., Sources],
) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        error = await failure(opened(), f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert (error.cause, "no TLS connection comes about" in error.what) == (
        CauseCode.TLS_FAILED,
        True,
    )


# Whom this machine trusts


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_a_trust_store_that_is_not_there_is_this_machines_fault(
    opened: Callable[..., Sources],
    authority: CertificateAuthority,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for each in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(each, str(tmp_path / "nowhere"))
    if variable == "SSL_CERT_DIR":
        monkeypatch.delenv("SSL_CERT_FILE")
        default = tmp_path / "empty.pem"
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: verify_paths(None, None))
        monkeypatch.setattr("entrepot.source.system_trust.STORES", (str(default),))
    else:
        monkeypatch.setattr("entrepot.source.system_trust.STORES", ())
    async with FakeRegistry(tls=authority.server()) as source:
        error = await failure(
            opened(ca_file=CertificateAuthority(tmp_path, "Other").path), source.url
        )
    assert error.cause is CauseCode.TRUST_STORE_EMPTY
    assert (
        error.what == f"This machine trusts no certificate authority: {variable} names "
        f"{tmp_path / 'nowhere'}, which is missing. So no certificate is trusted."
    )
    assert error.hint == f"Correct or unset {variable} where the engine is started."
    assert at_fault(CauseCode.TRUST_STORE_EMPTY) is Fault.MACHINE


# The clock. OpenSSL judges by the system's clock, so the certificates are moved instead: to it, the
# same.


async def test_a_clock_that_is_behind_is_at_fault_and_not_the_certificate(
    opened: Callable[..., Sources], authority: CertificateAuthority, clock: Clock
) -> None:
    right = datetime.now(UTC) + timedelta(days=400)
    async with FakeRegistry(
        tls=authority.server(begins=right - timedelta(days=10), ends=right + timedelta(days=80))
    ) as source:
        source.fault("/v2/", Headers({"Date": formatdate(right.timestamp(), usegmt=True)}))
        error = await failure(opened(ca_file=authority.path), source.url)
    assert error.cause is CauseCode.CLOCK_WRONG
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert (
        error.what
        == f"This machine's clock is 400 days behind ({today}), so the certificate of docker.io "
        "(127.0.0.1) counts as not yet valid."
    )
    assert "Set the clock of this machine" in error.hint
    assert at_fault(CauseCode.CLOCK_WRONG) is Fault.MACHINE
    assert [
        (request.method, request.headers.get("authorization")) for request in source.requests
    ] == [("HEAD", None)]


async def test_a_clock_that_is_ahead_is_at_fault_and_not_the_certificate(
    opened: Callable[..., Sources], authority: CertificateAuthority, clock: Clock
) -> None:
    right = datetime.now(UTC) - timedelta(days=400)
    async with FakeRegistry(
        tls=authority.server(begins=right - timedelta(days=10), ends=right + timedelta(days=80))
    ) as source:
        source.fault("/v2/", Headers({"Date": formatdate(right.timestamp(), usegmt=True)}))
        error = await failure(opened(ca_file=authority.path), source.url)
    assert (
        error.cause,
        "clock is 400 days ahead" in error.what,
        "counts as expired" in error.what,
    ) == (CauseCode.CLOCK_WRONG, True, True)


async def test_without_a_date_the_certificate_says_how_far_the_clock_is_behind_at_least(
    opened: Callable[..., Sources], authority: CertificateAuthority
) -> None:
    begins = datetime.now(UTC) + timedelta(days=300, hours=1)
    async with FakeRegistry(
        tls=authority.server(begins=begins, ends=begins + timedelta(days=80))
    ) as source:
        error = await failure(opened(ca_file=authority.path), source.url)
    assert (error.cause, "300 days behind" in error.what) == (CauseCode.CLOCK_WRONG, True)


async def test_where_another_source_agrees_with_the_clock_the_certificate_is_wrong(
    opened: Callable[..., Sources], authority: CertificateAuthority
) -> None:
    begins = datetime.now(UTC) + timedelta(days=300)
    sources = opened(ca_file=authority.path)
    async with (
        FakeRegistry(tls=authority.server()) as other,
        FakeRegistry(
            tls=authority.server(begins=begins, ends=begins + timedelta(days=80))
        ) as source,
    ):
        other.fault("/v2/", Headers({"Date": formatdate(usegmt=True)}))
        other.add_image("library/nginx", "latest")
        await sources.client(registry(other.url, "quay.io"), None).head_manifest(NGINX, LATEST)
        source.fault(
            "/v2/", Headers({"Date": formatdate(begins.timestamp() + 86_400, usegmt=True)})
        )
        error = await failure(sources, source.url)
    assert (error.cause, at_fault(CauseCode.CERTIFICATE_NOT_YET_VALID)) == (
        CauseCode.CERTIFICATE_NOT_YET_VALID,
        Fault.SOURCE,
    )
    assert f"its certificate is not valid before {begins:%Y-%m-%d}." in error.what


# The network of this machine


IN_A_MACHINE_OF_ITS_OWN = """
import asyncio, json, resource, socket, sys
from entrepot.core.reference import Repository, Tag
from entrepot.config.settings import Settings
from entrepot.core.states import (SignIn)
from entrepot.source.sources import Sources
from entrepot.source.errors import SourceError
from entrepot.core.registries import SourceRegistry

async def main():
    results = []
    async def pause(_): pass
    async with Sources(Settings(connect_timeout=5), pause=pause) as sources:
        await sources.prepare()
        await asyncio.to_thread(str)
        limit()
        for login_server, endpoint in json.loads(sys.argv[1]).items():
            source = SourceRegistry("Stand-in", login_server, SignIn.OPTIONAL, endpoint, True)
            try:
                client = sources.client(source, None)
                await client.head_manifest(Repository("library/nginx"), Tag("latest"))
            except SourceError as error:
                results.append([error.cause, error.what, error.hint])
    release()
    print(json.dumps(results))

def limit(): pass
def release(): pass
"""


def elsewhere(sources: dict[str, str], *prefix: str, change: str = "") -> list[list[str]]:
    """How requests fail in a process of its own, begun with *prefix*."""
    program = f"{IN_A_MACHINE_OF_ITS_OWN}\n{change}\nasyncio.run(main())"
    environment = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    command = [*prefix, sys.executable, "-c", program, json.dumps(sources)]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stderr
    results: list[list[str]] = json.loads(ended.stdout)
    return results


def test_without_a_network_it_is_this_machine_that_has_none_whatever_source_is_asked() -> None:
    require_root("a network namespace")
    unshare = str(require_program("unshare"))
    found = elsewhere(
        {"docker.io": "https://registry-1.docker.io", "quay.io": "https://192.0.2.7"}, unshare, "-n"
    )
    assert len(found) == 2
    assert {tuple(each) for each in found} == {
        (
            "no-network",
            "This machine has no network: no route leads out of it.",
            "Connect it. An engine in a container needs a network too (not --network none).",
        )
    }


def test_without_a_name_server_it_is_this_machine_that_lacks_one(tmp_path: Path) -> None:
    require_root("a mount namespace")
    unshare, mount, ip = (str(require_program(each)) for each in ("unshare", "mount", "ip"))
    empty = tmp_path / "resolv.conf"
    empty.write_text("# nothing\noptions timeout:1 attempts:1\n")
    # A network of its own with a route that leads nowhere: no name server of the real one answers.
    setup = (
        f"{mount} --bind {empty} /etc/resolv.conf && {ip} link set lo up "
        f'&& {ip} route add default dev lo && exec "$@"'
    )
    [found] = elsewhere(
        {"quay.io": "https://registry.example.com"}, unshare, "-n", "-m", "sh", "-c", setup, "sh"
    )
    assert found[0] == "name-server-missing"
    assert found[1] == "This machine has no name server: /etc/resolv.conf names none."


def test_out_of_open_files_it_is_the_engines_limit_that_is_named() -> None:
    change = """
import os
held = []
def limit():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True: held.append(os.dup(0))
    except OSError: pass
def release():
    for each in held: os.close(each)
"""
    [found] = elsewhere({"quay.io": "http://127.0.0.1:9"}, change=change)
    assert found[:2] == [
        "open-files",
        "The engine has as many files open as it may (64), so no source can be reached.",
    ]
    assert "LimitNOFILE=65536" in found[2]


def test_out_of_local_ports_it_is_this_machine_that_has_none() -> None:
    require_root("a network namespace")
    unshare, ip = (str(require_program(each)) for each in ("unshare", "ip"))
    setup = (
        f"{ip} link set lo up && echo '40000 40000' > /proc/sys/net/ipv4/ip_local_port_range "
        '&& exec "$@"'
    )
    change = """
server = socket.create_server(("127.0.0.1", 50001))
taken = socket.create_connection(("127.0.0.1", 50001))
"""
    [found] = elsewhere(
        {"quay.io": "http://127.0.0.1:50001"}, unshare, "-n", "sh", "-c", setup, "sh", change=change
    )
    assert found[0] == "ports"


def test_a_source_of_ipv6_only_on_a_machine_without_it() -> None:
    require_root("a network namespace")
    unshare, ip = (str(require_program(each)) for each in ("unshare", "ip"))
    setup = f'{ip} link set lo up && {ip} route add default dev lo && exec "$@"'
    [found] = elsewhere(
        {"quay.io": "https://[2001:db8::7]"}, unshare, "-n", "sh", "-c", setup, "sh"
    )
    assert (found[0], "this machine has no route for these" in found[1]) == ("no-ipv6", True)


# What comes of it


async def test_a_source_that_is_avoided_keeps_the_words_and_the_cure_first(
    opened: Callable[..., Sources], source: FakeRegistry
) -> None:
    sources = opened()
    await source.stop()
    first = await failure(sources, source.url)
    client = sources.client(registry(source.url), None)
    with pytest.raises(SourceUnreachable) as again:
        await client.head_manifest(NGINX, LATEST)
    assert (again.value.what, again.value.cause) == (first.what, first.cause)
    assert again.value.hint.startswith(first.hint)


async def test_the_look_at_a_certificate_goes_nowhere_a_request_may_not_go(
    authority: CertificateAuthority,
) -> None:
    async with FakeRegistry(tls=authority.server()) as source:
        assert await fetch_certificate(httpx.URL(source.url), Reach(), asks_date=True) is None
        assert not source.requests
        certificate = await fetch_certificate(
            httpx.URL(source.url), Reach(loopback=True), asks_date=False
        )
        assert certificate is not None
        assert (certificate.issuer, certificate.names, certificate.is_alone) == (
            "Example Root",
            ("127.0.0.1",),
            False,
        )
        assert not source.requests


def test_every_cause_has_one_who_is_at_fault() -> None:
    assert {at_fault(each) for each in CauseCode} == set(Fault)
    assert all(re.fullmatch(r"[a-z0-9-]+", each) for each in CauseCode)


LONG = RequestTarget("docker.io", httpx.URL("https://production.cloudflare.docker.com/x"))
PROXY = Proxy("http", "proxy.intranet.example.com", 3128, "HTTPS_PROXY")


def long_causes() -> list[Cause]:
    now = datetime.now(UTC)
    names = (
        "*.intranet.example.com",
        "gateway.intranet.example.com",
        "www.example.com",
        "example.com",
    )
    certificate = Certificate(
        names, "Example Corporation TLS Inspection CA 2026", False, now, now, True, None
    )
    return [
        Diagnosis().clock_cause(
            400 * 86_400, f", so the certificate of {LONG.label} counts as not yet valid"
        ),
        wrong_name_cause(certificate, LONG),
        unknown_issuer_cause(certificate, LONG, PROXY),
        unknown_issuer_cause(replace(certificate, is_alone=False), LONG, PROXY),
        *(proxy_status_cause(status, LONG, PROXY) for status in (403, 407, 502)),
        proxy_failure_cause(
            ProxyFailed("", PROXY), [socket.gaierror(-2, "Name or service not known")], LONG
        ),
        proxy_failure_cause(
            ProxyFailed("", PROXY), [socket.gaierror(socket.EAI_AGAIN, "Temporary failure")], LONG
        ),
        through_proxy_cause(httpx.ConnectTimeout(""), LONG, PROXY),
        through_proxy_cause(httpx.ReadTimeout(""), LONG, PROXY),
        through_proxy_cause(httpx.RemoteProtocolError(""), LONG, PROXY),
        proxy_failure_cause(
            ProxyFailed("", PROXY), [ConnectionRefusedError(111, "Connection refused")], LONG
        ),
    ]


@pytest.mark.parametrize("cause", long_causes(), ids=lambda cause: cause.code)
def test_sentence_and_cure_are_seen_whole_on_a_small_terminal(cause: Cause) -> None:
    """The strip below the pulls has five lines at 80 columns."""
    assert (
        len(wrapped(f"Failed after 10 s: {cause.what} (cache rule hub-library) {cause.hint}", 75))
        <= 5
    )
    assert cause.what.endswith(".")
    assert cause.hint.endswith(".")
