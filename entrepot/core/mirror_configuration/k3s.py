"""k3s: ``registries.yaml``, of which it makes a ``hosts.toml`` for each source registry.

containerd below it says in ``ns`` which one it means, so no path is rewritten.
"""

from __future__ import annotations

from entrepot.core.mirror_configuration.files import ClientFile, YamlFile, string
from entrepot.core.mirror_configuration.setup import Setup


def configure(setup: Setup, place: str) -> tuple[tuple[ClientFile, ...], tuple[str, ...]]:
    """``registries.yaml``."""
    maps = {
        "mirrors": "".join(
            f"{string(login_server)}:\n  endpoint:\n    - {string(setup.registry.url)}\n"
            for login_server in setup.login_servers
        )
    }
    lines = _of_registry(setup)
    if lines:
        indented = "".join(f"  {line}\n" for line in lines)
        maps["configs"] = f"{string(setup.registry.address)}:\n{indented}"
    notes = ["k3s reads it after: sudo systemctl restart k3s (k3s-agent on an agent)"]
    if setup.sign_in_required and setup.credentials is None:
        notes.append(
            "The engine requires sign-in: write the file with --credentials FILE, which has "
            "NAME:PASSWORD or NAME:TOKEN."
        )
    return (YamlFile(place, "", maps=maps, is_secret=setup.credentials is not None),), tuple(notes)


def _of_registry(setup: Setup) -> list[str]:
    lines = []
    if setup.credentials is not None:
        lines += [
            "auth:",
            f"  username: {string(setup.credentials.name)}",
            f"  password: {string(setup.credentials.password)}",
        ]
    tls = []
    if setup.registry.has_tls and setup.authorities is not None:
        tls.append(f"  ca_file: {string(setup.authorities)}")
    if setup.registry.has_tls and setup.skip_verify:
        tls.append("  insecure_skip_verify: true")
    return [*lines, *(["tls:", *tls] if tls else [])]
