"""Requests to a running engine as a client of any version sends them: plain HTTP on its registry
port and on the socket of its management API."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.readers import WrongAnswer


@dataclass(frozen=True)
class EngineRequests:
    """The two addresses of an engine. Each request has a connection of its own, and raises
    `TimeoutError` after *timeout* seconds, `WrongAnswer` where it is refused."""

    registry: str
    management: Path

    @classmethod
    def to(cls, address: str, root: Path) -> EngineRequests:
        """Those of an engine that `tests.e2e.clients.entrepot.Entrepot` runs below *root*."""
        return cls(address, root / "r/entrepot/entrepot.sock")

    def get(self, path: str, *, timeout: float = 60.0) -> bytes:
        """A request of a container client."""
        host, _, port = self.registry.rpartition(":")
        return _exchange(http.client.HTTPConnection(host, int(port), timeout=timeout), "GET", path)

    def manage(self, method: str, path: str, body: object = None, *, timeout: float = 60.0) -> Any:
        """A request to the management API; returns its JSON, None where there is none."""
        connection = _UnixConnection(self.management, timeout)
        content = _exchange(connection, method, path, body)
        return json.loads(content) if content else None

    def loop_lag(self) -> float | None:
        """How late the event loop was at the most within the last minute, in seconds; None where
        the engine does not say."""
        status = self.manage("GET", "/entrepot/v1/status")
        return float(status["loopLag"]["max"]) if "loopLag" in status else None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("entrepot", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: object = None
) -> bytes:
    try:
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        answer_content = answer.read()
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise WrongAnswer(f"{method} {path}: {answer.status} {answer_content[:1000]!r}")
    return answer_content
