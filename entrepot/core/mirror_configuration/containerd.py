"""containerd: a ``hosts.toml`` for each source registry (containerd, ``docs/hosts.md``).

containerd says in ``ns`` which source registry it means, so one address serves all of them.
"""

from __future__ import annotations

import base64
from pathlib import PurePosixPath

from entrepot.core.mirror_configuration.files import ClientFile, HostsFile, string
from entrepot.core.mirror_configuration.setup import Setup, source_url


def configure(setup: Setup, place: str) -> tuple[tuple[ClientFile, ...], tuple[str, ...]]:
    """The files below ``/etc/containerd/certs.d``."""
    body = _host(setup)
    files = tuple(
        HostsFile(
            str(PurePosixPath(place, login_server, "hosts.toml")),
            body,
            server=source_url(login_server),
            is_secret=setup.credentials is not None,
        )
        for login_server in setup.login_servers
    )
    notes = [
        "containerd reads them at the next pull if its config.toml has config_path = "
        f"{string(place)}: in containerd 2 below "
        "[plugins.'io.containerd.cri.v1.images'.registry], in containerd 1 below "
        '[plugins."io.containerd.grpc.v1.cri".registry]. After a change there: '
        "sudo systemctl restart containerd",
        f"ctr takes the directory as an option: ctr images pull --hosts-dir {place} IMAGE",
    ]
    if setup.sign_in_required and setup.credentials is None:
        notes.append(
            "The engine requires sign-in: write the files with --credentials FILE, which has "
            "NAME:PASSWORD or NAME:TOKEN."
        )
    return files, tuple(notes)


def _host(setup: Setup) -> str:
    host = setup.registry.url
    lines = [f"[host.{string(host)}]", 'capabilities = ["pull", "resolve"]']
    if setup.registry.has_tls and setup.authorities is not None:
        lines.append(f"ca = {string(setup.authorities)}")
    if setup.registry.has_tls and setup.skip_verify:
        lines.append("skip_verify = true")
    if setup.credentials is not None:
        pair = f"{setup.credentials.name}:{setup.credentials.password}"
        basic = base64.b64encode(pair.encode()).decode("ascii")
        lines += ["", f"[host.{string(host)}.header]", f'Authorization = "Basic {basic}"']
    return "\n".join(lines) + "\n"
