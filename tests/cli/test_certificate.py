"""``entrepot certificate``."""

from __future__ import annotations

from entrepot.config.settings import Settings
from tests.cli.conftest import CommandLine


async def test_what_is_printed_can_be_used(alone: CommandLine) -> None:
    directory = alone.root / "tls"
    result = await alone.run("certificate", str(directory), "--host", "cache.example")
    assert result.status == 0, result.errors
    settings, _, trust = result.output.partition("\n\n")
    (alone.root / "settings.toml").write_text(settings)
    tls = Settings.load(alone.root / "settings.toml").tls
    assert tls is not None
    assert tls.certificate == directory / "server.crt"
    for place in ("/etc/docker/certs.d", "/etc/containers/certs.d", "/etc/containerd/certs.d"):
        assert f"{place}/cache.example:5000/" in trust
    again = await alone.run("certificate", str(directory))
    assert again.status == 1
    assert "is there already. Name another directory" in again.errors
