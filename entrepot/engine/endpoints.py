"""Where clients reach the engine. The server writes it down as soon as it listens."""

from __future__ import annotations

from dataclasses import dataclass, field

from entrepot.api.models import MirrorSnapshot
from entrepot.engine.certificates import ServedCertificate


@dataclass(slots=True)
class Endpoints:
    """The addresses of one engine."""

    registry: str
    """Where container clients find the registry: ``127.0.0.1:5000``."""
    has_tls: bool = False
    """Whether the registry speaks TLS there."""
    mirrors: tuple[MirrorSnapshot, ...] = ()
    """Where clients find the images of one source registry each."""
    management: str | None = None
    """Where the management API is offered on TCP; None: nowhere."""
    certificates: list[ServedCertificate] = field(default_factory=list)
    """What clients get of the listeners that speak TLS."""
    socket_problem: str | None = None
    """Why commands can't reach the engine on its Unix socket; None: they can."""

    @property
    def own_hosts(self) -> set[str]:
        """The names that stand for this engine in front of an image."""
        _, _, port = self.registry.rpartition(":")
        return {self.registry.lower(), f"localhost:{port}", f"127.0.0.1:{port}"}
