"""A real ``docker-registry`` as source registry, or as a cache to be compared with. It counts by
its own access log."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.clients.processes import Process, bare_environment
from tests.processes import replace_shared
from tests.programs import require_program

_ACCESS = re.compile(
    r'"(?P<method>[A-Z]+) (?P<target>\S+) HTTP/[\d.]+" (?P<status>\d{3}) (?P<sent>\d+) "[^"]*" "(?P<agent>[^"]*)"'
)


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A line of the access log. *sent* is the bytes of the body."""

    method: str
    target: str
    status: int
    sent: int
    agent: str


class DockerRegistry:
    """The registry of the CNCF's distribution project, on a free port of 127.0.0.1, with its
    storage below *root*.

    *auth* is the section ``auth`` of its configuration; *proxy_of* makes it a pull-through cache of
    another registry; *schema_1* lets it take Docker's schema 1.
    """

    def __init__(
        self,
        root: Path,
        *,
        auth: dict[str, Any] | None = None,
        proxy_of: str | None = None,
        schema_1: bool = False,
    ) -> None:
        self._program = require_program("docker-registry")
        self._root = root
        self._auth = auth
        self._proxy_of = proxy_of
        self._schema_1 = schema_1
        self._process: Process | None = None
        self._pid_before: int | None = None
        self._earlier: list[LoggedRequest] = []
        self.address = "127.0.0.1:0"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> DockerRegistry:
        """Start it; after a stop on the same port again."""
        self._root.mkdir(parents=True, exist_ok=True)
        configuration = self._root / "config.json"
        # JSON is YAML, which is what it reads.
        configuration.write_text(json.dumps(self._configuration()))
        self._process, match = Process.until(
            r"listening on (127\.0\.0\.1:\d+)",
            [self._program, "serve", configuration],
            environment=bare_environment(self._root / "home"),
        )
        self.address = match[1]
        if self._pid_before is not None:
            replace_shared(self._pid_before, self.pid)
        return self

    def _configuration(self) -> dict[str, Any]:
        configuration: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self._root / "storage")},
                "delete": {"enabled": True},
            },
            "http": {"addr": self.address},
        }
        if self._auth is not None:
            configuration["auth"] = self._auth
        if self._schema_1:
            configuration["compatibility"] = {"schema1": {"enabled": True}}
        if self._proxy_of is not None:
            configuration["proxy"] = {"remoteurl": self._proxy_of}
        return configuration

    def stop(self) -> None:
        """Stop it: its port refuses connections from now on. What it counted stays."""
        if self._process is not None:
            self._process.stop()
            self._pid_before = self._process.pid
            self._earlier = self.accesses(settle=False)
            self._process = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Within it the registry does not run."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def accesses(self, *, settle: bool = True) -> list[LoggedRequest]:
        """All requests so far.

        It writes the line of a request before the last bytes of a short answer go out, so once the
        line of a short request is there, those of all requests that were answered before are there
        too.
        """
        if self._process is None:
            return self._earlier
        if settle:
            marker = f"/v2/?marker={uuid.uuid4().hex}"
            # A registry that wants a sign-in answers 401, and logs that as well.
            httpx.get(f"{self.url}{marker}", trust_env=False, verify=False)
            self._process.wait_for_line(re.escape(marker))
        matches = [_ACCESS.search(line) for line in self._process.lines()]
        return self._earlier + [
            LoggedRequest(
                each["method"],
                each["target"],
                int(each["status"]),
                int(each["sent"]),
                each["agent"],
            )
            for each in matches
            if each and "?marker=" not in each["target"]
        ]

    def requests_since(self, since: int = 0) -> list[tuple[str, str]]:
        """Method and address of each request after the first *since* ones."""
        return [(each.method, each.target) for each in self.accesses()[since:]]

    def count(self, method: str, part: str, since: int = 0) -> int:
        """How many requests had this method and this part in their address."""
        return sum(
            asked == method and part in target for asked, target in self.requests_since(since)
        )

    def mark(self) -> int:
        """How many requests there were so far."""
        return len(self.accesses())

    def __enter__(self) -> DockerRegistry:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
