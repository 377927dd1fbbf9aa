"""A private authority, for trying out TLS."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from entrepot.config.private_authority import create_authority
from entrepot.config.tls_settings import TlsFiles
from entrepot.errors import EngineError


def handshake(files: TlsFiles, trusted: Path, host: str) -> None:
    """What a client that trusts *trusted* makes of the server; raises `ssl.SSLError`."""
    client = ssl.create_default_context(cafile=str(trusted))
    # As strict as Python 3.13 is by default.
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = files.context().wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname=host)
    for side in (client_side, server_side, client_side, server_side):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue


@pytest.mark.parametrize("host", ["cache.example", "10.0.0.7", "fd00::7", "a.wild.example"])
def test_clients_that_trust_the_authority_take_the_certificate(host: str, tmp_path: Path) -> None:
    hosts = ["Cache.Example.", "10.0.0.7", "[fd00::7]", "*.wild.example"]
    authority = create_authority(tmp_path / "new" / "tls", hosts)
    files = TlsFiles(authority.server_certificate, authority.server_key)
    handshake(files, authority.certificate, host)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, authority.certificate, "other.example")


def test_keys_are_for_this_user_only(tmp_path: Path) -> None:
    authority = create_authority(tmp_path, ["localhost"])
    assert [os.stat(file).st_mode & 0o077 for file in (authority.key, authority.server_key)] == [
        0,
        0,
    ]


@pytest.mark.parametrize("name", ["authority.crt", "authority.key", "server.crt", "server.key"])
def test_nothing_is_overwritten(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(EngineError, match=f"{name} is there already"):
        create_authority(tmp_path, ["localhost"])
    assert (tmp_path / name).read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_an_authority_that_is_there_signs_another_certificate(tmp_path: Path) -> None:
    authority = create_authority(tmp_path, ["localhost"])
    trusted = authority.certificate.read_bytes()
    authority.server_certificate.unlink()
    authority.server_key.unlink()
    create_authority(tmp_path, ["other.example"])
    assert authority.certificate.read_bytes() == trusted
    files = TlsFiles(authority.server_certificate, authority.server_key)
    handshake(files, authority.certificate, "other.example")


def test_a_foreign_authority_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "authority.crt").write_text("x")
    (tmp_path / "authority.key").write_text("x")
    with pytest.raises(EngineError, match="are not an authority that this command created"):
        create_authority(tmp_path, ["localhost"])


@pytest.mark.parametrize("host", ["https://cache.example", "cache.example:5000", "a b", "", "-"])
def test_what_is_no_host_is_refused_before_anything_is_written(host: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="is not a host name or an address"):
        create_authority(tmp_path / "new", [host])
    assert not (tmp_path / "new").exists()


def test_a_directory_that_can_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match=r"can't be written: "):
        create_authority(tmp_path / "file" / "below", ["localhost"])
