"""BuildKit: mirrors in ``buildkitd.toml``. It says in ``ns`` which source registry it means."""

from __future__ import annotations

from entrepot.core.mirror_configuration.files import ClientFile, TomlFile, string
from entrepot.core.mirror_configuration.setup import Setup


def configure(setup: Setup, place: str) -> tuple[tuple[ClientFile, ...], tuple[str, ...]]:
    """``buildkitd.toml``."""
    address = string(setup.registry.address)
    tables = [
        f"[registry.{string(login_server)}]\nmirrors = [{address}]\n"
        for login_server in setup.login_servers
    ]
    options = []
    if not setup.registry.has_tls:
        options.append("http = true\n")
    elif setup.skip_verify:
        options.append("insecure = true\n")
    elif setup.authorities is not None:
        options.append(f"ca = [{string(setup.authorities)}]\n")
    if options:
        tables.append(f"[registry.{address}]\n{''.join(options)}")
    notes = [
        "BuildKit reads it when buildkitd starts. For docker buildx: docker buildx create "
        f"--buildkitd-config {place}"
    ]
    if setup.sign_in_required:
        notes.append(f"The engine requires sign-in: docker login {setup.registry.address}")
    return (TomlFile(place, "\n".join(tables)),), tuple(notes)
