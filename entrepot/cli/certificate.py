"""``entrepot certificate``: TLS for trying out, and how clients trust it."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from entrepot.cli.output import fail, note, print_text
from entrepot.config.directories import Directories
from entrepot.errors import EntrepotError


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A host name or address under which clients reach the registry; may be repeated. "
    "[default: this machine's name, localhost, 127.0.0.1 and ::1]",
)
def certificate(directory: Path, hosts: tuple[str, ...]) -> None:
    """Create a private authority and a server certificate in DIR, for trying out TLS, and print how
    clients trust it. Nothing is overwritten; an authority that is in DIR already signs a new
    certificate."""
    from entrepot.config.private_authority import create_authority
    from entrepot.config.settings import Settings, parse_listen

    names = list(hosts) or list(
        dict.fromkeys((socket.gethostname(), "localhost", "127.0.0.1", "::1"))
    )
    directory = directory.absolute()
    try:
        files = create_authority(directory, names)
    except EntrepotError as error:
        fail(error)
    try:
        listen = Settings.load(Directories.of_user().settings).listen
    except EntrepotError:
        # The certificate is there; what is wrong with the settings is said at the next start.
        listen = Settings().listen
    port = parse_listen(listen)[1] or 5000
    host = f"[{names[0]}]" if ":" in names[0] else names[0]
    address = f"{host}:{port}"
    note(f"Created in {directory}: {', '.join(file.name for file in sorted(directory.iterdir()))}")
    print_text(
        f"""\
# At the top of settings.toml:
certificate = "{files.server_certificate}"
key = "{files.server_key}"

# docker and dockerd, and podman, skopeo, buildah (no restart):
sudo install -D -m 644 {files.certificate} /etc/docker/certs.d/{address}/ca.crt
sudo install -D -m 644 {files.certificate} /etc/containers/certs.d/{address}/ca.crt

# containerd, in /etc/containerd/certs.d/{address}/hosts.toml:
server = "https://{address}"
ca = "{files.certificate}"

# curl:
curl --cacert {files.certificate} https://{address}/v2/"""
    )
