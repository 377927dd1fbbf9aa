"""F87: files of certificate authorities as people and openssl write them."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest

from entrepot.api.transport import HttpxTransport
from entrepot.certificates import (
    MAX_FILE_SIZE,
    CertificatesInvalid,
    foreign_format,
    read_certificates,
)
from entrepot.config.settings import Settings
from entrepot.source.sources import tls_context
from tests.e2e.registries.certificates import Authority

BOM = b"\xef\xbb\xbf"


@pytest.fixture
def one(tmp_path: Path) -> bytes:
    (tmp_path / "one").mkdir()
    return Authority(tmp_path / "one").path.read_bytes()


@pytest.fixture
def two(tmp_path: Path) -> bytes:
    (tmp_path / "two").mkdir()
    return Authority(tmp_path / "two").path.read_bytes()


def authorities(certificates: str) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificates)
    return context.cert_store_stats()["x509_ca"]


def test_certificates_are_read_whatever_stands_between_them(
    tmp_path: Path, one: bytes, two: bytes
) -> None:
    prints = "Zertifikat:\n    Aussteller: O = Müller & Söhne\n"
    for content in (
        one + two,
        BOM + one + BOM + two,
        prints.encode() + one + prints.encode("latin-1") + two,
        one.replace(b"\n", b"\r\n") + two + b"\n-- \nsent from my phone\n",
        one.replace(b"\n", b"\n    ") + two.rstrip(),
        one.replace(b"BEGIN CERT", b"BEGIN X509 CERT").replace(b"END CERT", b"END X509 CERT") + two,
        one + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" + two,
        one + two + one,
    ):
        (tmp_path / "ca.pem").write_bytes(content)
        assert authorities(read_certificates(tmp_path / "ca.pem")) == 2


def test_all_that_trust_a_file_of_certificates_read_it_so(tmp_path: Path, one: bytes) -> None:
    """The engine towards its sources, and the command line towards an engine."""
    file = tmp_path / "ca.pem"
    file.write_bytes(BOM + "Ünder Bäumen\n".encode("latin-1") + one)
    (tmp_path / "settings.toml").write_text('ca_file = "ca.pem"\n')
    settings = Settings.load(tmp_path / "settings.toml")
    assert settings.ca_file == file
    tls_context(settings)
    HttpxTransport.over_https("https://127.0.0.1:1", file)


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


@pytest.mark.parametrize(
    ("convert", "says"),
    [
        (der, r"is in DER format.*openssl x509 -inform DER -in .*ca\.crt -out ca\.pem"),
        (lambda pem: pem.decode().encode("utf-16"), r"is UTF-16 text.*Save it as UTF-8"),
        (
            lambda pem: pem.replace(b"BEGIN CERT", b"BEGIN TRUSTED CERT"),
            r"openssl's own format of trusted certificates.*Convert it: openssl x509",
        ),
        (lambda pem: b" \n", "is empty"),
        (
            lambda pem: b"listen = 1\n",
            "holds no certificates that can be read.*between -----BEGIN CERTIFICATE-----",
        ),
        (lambda pem: b"#\n" + pem[:200], "is cut off.*in line 2"),
        (lambda pem: pem + pem[:100] + b"\xff" + pem[100:], "other characters than base64 has"),
        (lambda pem: pem[:28] + b"AAAA" + pem[28:], "can't be read, in line 1"),
    ],
)
def test_a_file_without_certificates_is_named_for_what_it_is(
    convert: object, says: str, tmp_path: Path, one: bytes
) -> None:
    file = tmp_path / "ca.crt"
    file.write_bytes(convert(one))  # type: ignore[operator]
    with pytest.raises(CertificatesInvalid) as caught:
        read_certificates(file)
    assert re.search(says, f"{caught.value}. {caught.value.hint}")


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "ca.pem").open("wb") as file:
        file.truncate(MAX_FILE_SIZE + 1)
    with pytest.raises(CertificatesInvalid, match="is longer than"):
        read_certificates(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("convert", "says"),
    [
        (lambda pem: BOM + pem, "byte order mark"),
        (der, "DER"),
        (lambda pem: pem.decode().encode("utf-16"), "UTF-16"),
    ],
)
def test_a_key_pair_in_another_format_is_named(
    convert: object, says: str, tmp_path: Path, one: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssl, "OPENSSL_VERSION_INFO", (1, 1, 1, 23, 15))
    file = tmp_path / "server.pem"
    file.write_bytes(one)
    assert foreign_format(file) == ""
    assert foreign_format(tmp_path / "none") == ""
    file.write_bytes(convert(one))  # type: ignore[operator]
    assert says in foreign_format(file)
