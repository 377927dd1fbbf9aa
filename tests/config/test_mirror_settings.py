"""``[[mirrors]]`` in ``settings.toml``."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrepot.config.mirror_settings import Mirror
from entrepot.config.settings import Settings, SettingsInvalid, TlsFiles
from tests.e2e.registries.certificates import Authority

LISTEN = 'listen = "127.0.0.1:5002"'


def load(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return Settings.load(file)


@pytest.fixture
def pem(tmp_path: Path) -> str:
    Authority(tmp_path).server("cache.example")
    (tmp_path / "cache.example.pem").chmod(0o600)
    return "cache.example.pem"


def test_a_mirror_has_an_address_or_a_host_name(tmp_path: Path) -> None:
    text = f"""
[[mirrors]]
namespace = "index.docker.io"
{LISTEN}

[[mirrors]]
namespace = "Quay.io"
host = "Quay.Cache.Example."
"""
    assert load(tmp_path, text).mirrors == (
        Mirror("docker.io", "127.0.0.1:5002"),
        Mirror("quay.io", host="quay.cache.example"),
    )


def test_a_mirror_speaks_tls_as_the_registry_does(tmp_path: Path, pem: str) -> None:
    Authority(tmp_path).server("own.example")
    (tmp_path / "own.example.pem").chmod(0o600)
    text = f"""
certificate = "{pem}"
key = "{pem}"
[[mirrors]]
namespace = "docker.io"
listen = "127.0.0.1:5002"
[[mirrors]]
namespace = "quay.io"
listen = "127.0.0.1:5003"
plain_http = true
[[mirrors]]
namespace = "ghcr.io"
listen = "127.0.0.1:5004"
certificate = "own.example.pem"
key = "own.example.pem"
[[mirrors]]
namespace = "gcr.io"
host = "gcr.cache.example"
"""
    registry, own = (
        TlsFiles(tmp_path / name, tmp_path / name) for name in (pem, "own.example.pem")
    )
    assert [mirror.tls for mirror in load(tmp_path, text).mirrors] == [registry, None, own, None]


def test_a_mirror_requires_client_certificates_as_the_registry_does(
    tmp_path: Path, pem: str
) -> None:
    for host in ("own.example", "others.example"):
        Authority(tmp_path).server(host)
        (tmp_path / f"{host}.pem").chmod(0o600)
    text = f"""
certificate = "{pem}"
key = "{pem}"
client_authorities = "authority.pem"
[[mirrors]]
namespace = "docker.io"
listen = "127.0.0.1:5002"
certificate = "own.example.pem"
key = "own.example.pem"
[[mirrors]]
namespace = "quay.io"
listen = "127.0.0.1:5003"
certificate = "own.example.pem"
key = "own.example.pem"
client_authorities = "others.example.pem"
"""
    inherited, own = load(tmp_path, text).mirrors
    assert inherited.tls is not None
    assert inherited.tls.client_authorities == tmp_path / "authority.pem"
    assert own.tls is not None
    assert own.tls.client_authorities == tmp_path / "others.example.pem"


@pytest.mark.parametrize(
    ("table", "line", "says"),
    [
        (LISTEN, 2, "The key namespace is missing. Write the source registry"),
        ('namespace = "docker.io"', 2, "neither an address nor a host name"),
        (f'namespace = "docker.io"\n{LISTEN}\nhost = "hub.example"', 5, "both an address and"),
        (f'namespace = "docker.io/library"\n{LISTEN}', 3, "A login server has no path"),
        (f'namespace = "*.azurecr.io"\n{LISTEN}', 3, "stands for many registries"),
        (f'namespace = ""\n{LISTEN}', 3, "The login server is missing"),
        ('namespace = "docker.io"\nlisten = "5002"', 4, "not an address to listen on"),
        ('namespace = "docker.io"\nlisten = "127.0.0.1:5000"', 4, "The registry has the address"),
        ('namespace = "docker.io"\nhost = "hub.example:443"', 4, "is not a host name"),
        ('namespace = "docker.io"\nhost = "127.0.0.1"', 4, "is not a host name"),
        ('namespace = "docker.io"\nhost = "hub.example"\nplain_http = true', 5, "for an address"),
        ('namespace = "docker.io"\nhost = "hub.example"\ncertificate = "x"', 5, "no key beside"),
        (f'namespace = "docker.io"\n{LISTEN}\nkey = "x"', 5, "no certificate beside the key"),
        (f'namespace = "docker.io"\n{LISTEN}\nclient_authorities = "x"', 5, "within TLS"),
        (f'namespace = "docker.io"\n{LISTEN}\nport = 1', 5, "There is no key port"),
        (f"namespace = 1\n{LISTEN}", 3, "does not fit"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(
    table: str, line: int, says: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load(tmp_path, f"\n[[mirrors]]\n{table}\n")
    assert caught.value.what.startswith(f"{tmp_path / 'settings.toml'}, line {line}: In mirror 1: ")
    assert says in caught.value.message


def test_a_certificate_for_a_host_needs_tls_on_the_address(tmp_path: Path, pem: str) -> None:
    text = f"""[[mirrors]]
namespace = "docker.io"
host = "hub.cache.example"
certificate = "{pem}"
key = "{pem}"
"""
    with pytest.raises(SettingsInvalid, match=r"line 4: In mirror 1: .* shares, has none"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ('listen = "127.0.0.1:5002"', "Another mirror has the address"),
        ('host = "hub.cache.example"', "Another mirror has the host"),
    ],
)
def test_two_mirrors_can_not_share_a_place(place: str, says: str, tmp_path: Path) -> None:
    text = f'[[mirrors]]\nnamespace = "docker.io"\n{place}\n[[mirrors]]\nnamespace = "quay.io"\n'
    with pytest.raises(SettingsInvalid, match=r"line 6: In mirror 2: .*" + says):
        load(tmp_path, f"{text}{place}\n")
    assert len(load(tmp_path, text + 'listen = "127.0.0.1:0"\n').mirrors) == 2


def test_mirrors_are_an_array_of_tables(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"line 1: Write each mirror below a line"):
        load(tmp_path, '[mirrors]\nnamespace = "docker.io"\n')
