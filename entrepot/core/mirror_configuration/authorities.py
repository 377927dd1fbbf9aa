"""Authorities of the engine's certificate, where clients look for them by address."""

from __future__ import annotations

from pathlib import PurePosixPath

from entrepot.core.mirror_configuration.files import ClientFile, OwnFile
from entrepot.core.mirror_configuration.setup import Endpoint, Setup


def authority_files(setup: Setup, endpoint: Endpoint, directory: str) -> tuple[ClientFile, ...]:
    """``certs.d/HOST:PORT/ca.crt`` of docker and Podman; text outside of PEM blocks is ignored."""
    if not endpoint.has_tls or setup.authorities_text is None:
        return ()
    path = PurePosixPath(directory, endpoint.address, "ca.crt")
    return (OwnFile(str(path), setup.authorities_text),)
