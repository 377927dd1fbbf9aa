"""Certificate, key and client authorities in ``settings.toml``."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from entrepot.config.settings import Settings, SettingsInvalid, TlsFiles
from tests.e2e.registries.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path)
    authority.server("cache.example")
    return authority


def load(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return Settings.load(file)


def refusal(tmp_path: Path, text: str) -> SettingsInvalid:
    with pytest.raises(SettingsInvalid) as caught:
        load(tmp_path, text)
    return caught.value


def test_without_certificate_the_registry_speaks_plain_http() -> None:
    assert Settings().tls is None


def test_files_are_beside_the_settings(tmp_path: Path, authority: Authority) -> None:
    pem = "cache.example.pem"
    text = f'certificate = "{pem}"\nkey = "{pem}"\nclient_authorities = "{authority.path.name}"\n'
    assert load(tmp_path, text).tls == TlsFiles(tmp_path / pem, tmp_path / pem, authority.path)


def test_the_context_is_for_tls_1_2_and_http_1_1(tmp_path: Path, authority: Authority) -> None:
    pem = tmp_path / "cache.example.pem"
    context = TlsFiles(pem, pem).context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    assert TlsFiles(pem, pem, authority.path).context().verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    [
        ('certificate = "{pem}"\n', 1, "certificate", "There is no key beside the certificate"),
        ('key = "{pem}"\n', 1, "key", "There is no certificate beside the key"),
        ('client_authorities = "{pem}"\n', 1, "client_authorities", "Give certificate and key too"),
        ('certificate = "none.pem"\nkey = "{pem}"\n', 1, "certificate", "none.pem can't be read"),
        ('certificate = "{pem}"\nkey = "none.pem"\n', 2, "key", "none.pem can't be read: No such"),
        ('certificate = "{pem}"\nkey = "other.example.pem"\n', 2, "key", "is not that of the"),
        ('certificate = "{pem}"\nkey = "secret.pem"\n', 2, "key", "has a pass phrase"),
        ('certificate = "{pem}"\nkey = "."\n', 2, "key", "Is a directory"),
        ('certificate = "text"\nkey = "{pem}"\n', 1, "certificate", "not a certificate and its"),
        (
            'certificate = "{pem}"\nkey = "{pem}"\nclient_authorities = "text"\n',
            3,
            "client_authorities",
            "holds no certificates",
        ),
        (
            'certificate = "{pem}"\nkey = "{pem}"\nclient_authorities = "none.pem"\n',
            3,
            "client_authorities",
            "none.pem can't be read",
        ),
        ("certificate = 1\n", 1, "certificate", "does not fit"),
        ("allow_plain_http = 1\n", 1, "allow_plain_http", "does not fit"),
    ],
)
def test_files_that_no_server_can_use_are_refused_with_their_line(
    text: str, line: int, key: str, says: str, tmp_path: Path, authority: Authority
) -> None:
    authority.server("other.example")
    (tmp_path / "text").write_text("no certificate")
    pem = (tmp_path / "cache.example.pem").read_bytes()
    private_key = serialization.load_pem_private_key(pem, None)
    (tmp_path / "secret.pem").write_bytes(
        private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    for file in tmp_path.glob("*.pem"):
        file.chmod(0o600)
    error = refusal(tmp_path, text.format(pem="cache.example.pem"))
    assert error.what.startswith(f"{tmp_path / 'settings.toml'}, line {line}: ")
    assert error.field == key
    assert says in error.message


def test_a_key_that_every_user_can_read_is_refused(
    open_directory: Path, authority: Authority, tmp_path: Path
) -> None:
    """F71."""
    key = open_directory / "key.pem"
    key.write_bytes((tmp_path / "cache.example.pem").read_bytes())
    key.chmod(0o644)
    error = refusal(tmp_path, f'certificate = "{key}"\nkey = "{key}"\n')
    assert "line 2: The key in" in error.what
    assert "is open to every user of this machine" in error.what
