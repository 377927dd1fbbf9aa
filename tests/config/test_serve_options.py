"""Options of ``entrepot serve`` in place of settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from entrepot.config.mirror_settings import Mirror
from entrepot.config.serve_options import ServeOptions
from entrepot.config.settings import Settings, SettingsInvalid, TlsFiles
from tests.e2e.registries.certificates import Authority


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    Authority(tmp_path).server("cache.example")
    (tmp_path / "cache.example.pem").chmod(0o600)
    return tmp_path / "cache.example.pem"


def test_no_option_changes_nothing() -> None:
    settings = Settings(listen="127.0.0.1:1", allow_anonymous=False)
    assert ServeOptions().applied_to(settings) == settings


def test_options_win_over_settings() -> None:
    options = ServeOptions("127.0.0.1:2", allow_plain_http=True, allow_anonymous=True)
    assert options.applied_to(Settings(listen="127.0.0.1:1")) == Settings(
        listen="127.0.0.1:2", allow_plain_http=True, allow_anonymous=True
    )


def test_a_certificate_is_for_mirrors_without_their_own_too(
    pem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mirror = Mirror("docker.io", "127.0.0.1:3")
    plain = replace(mirror, plain_http=True)
    hosted = Mirror("docker.io", host="hub.example")
    settings = ServeOptions(certificate=Path(pem.name), key=Path(pem.name)).applied_to(
        Settings(mirrors=(mirror, plain, hosted))
    )
    tls = TlsFiles(pem, pem)
    assert settings == Settings(tls=tls, mirrors=(replace(mirror, tls=tls), plain, hosted))


def test_client_authorities_join_the_certificate_of_the_settings(pem: Path) -> None:
    settings = Settings(tls=TlsFiles(pem, pem))
    options = ServeOptions(client_authorities=pem)
    assert options.applied_to(settings).tls == TlsFiles(pem, pem, pem)


def test_client_authorities_are_for_mirrors_without_their_own_too(
    pem: Path, tmp_path: Path
) -> None:
    other = tmp_path / "authority.pem"
    mirror = Mirror("docker.io", "127.0.0.1:3", tls=TlsFiles(other, other))
    with_own = replace(mirror, tls=TlsFiles(other, other, other))
    settings = ServeOptions(client_authorities=pem).applied_to(
        Settings(tls=TlsFiles(pem, pem), mirrors=(mirror, with_own))
    )
    assert settings.mirrors == (replace(mirror, tls=TlsFiles(other, other, pem)), with_own)


def test_half_a_pair_is_refused(pem: Path) -> None:
    with pytest.raises(SettingsInvalid, match="There is no key beside the certificate"):
        ServeOptions(certificate=pem).applied_to(Settings(tls=TlsFiles(pem, pem)))
