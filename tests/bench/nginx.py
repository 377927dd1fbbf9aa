"""nginx, twice: with one file, as the measure for serving files, and as the source registry of the
benchmark, with images as plain files.

As a source it takes the least that a source can take of the two cores that all share, and it is the
same for everyone.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.authority import CertificateAuthority
from tests.e2e.clients.processes import Process, bare_environment
from tests.fakes.images import Content, FakeImage
from tests.processes import reserved_port
from tests.programs import require_program

_CONFIGURATION = """\
daemon off;
worker_processes {workers};
pid {root}/pid;
error_log stderr notice;
{user}
events {{ worker_connections 4096; }}
http {{
    log_format counted '$request_method $status $body_bytes_sent $request_uri';
    access_log {log};
    sendfile on;
    tcp_nopush on;
    keepalive_requests 10000000;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
{tls}
{locations}
    }}
}}
"""

_TLS = """\
        listen 127.0.0.1:{port} ssl backlog=4096;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
"""

_SETTLING = 30.0
"""Seconds that nginx has to write its log."""


class Nginx:
    """nginx on a free port of 127.0.0.1, with everything that it writes below *root*; *locations*
    is the inside of its ``server``.

    With a *certificate*, a PEM file with its key, it answers over TLS on another port too.
    """

    def __init__(
        self,
        root: Path,
        locations: str,
        *,
        workers: str = "auto",
        log: str = "off",
        certificate: Path | None = None,
    ) -> None:
        self._program = require_program("nginx")
        self._root = root
        self._locations = locations
        self._workers = workers
        self._log = log
        self._certificate = certificate
        self._process: Process | None = None
        self.address = ""
        self.tls_address = ""

    @classmethod
    def with_file(cls, root: Path, file: Path) -> Nginx:
        """It serves *file* at ``/file``."""
        return cls(root, f"location = /file {{ alias {file}; }}")

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Nginx:
        self._root.mkdir(parents=True, exist_ok=True)
        port = reserved_port()
        configuration = self._root / "nginx.conf"
        # Started by root, its workers would run as a user who may not read below a temporary
        # directory.
        user = "user root;" if os.geteuid() == 0 else ""
        tls = ""
        if self._certificate is not None:
            tls_port = reserved_port()
            tls = _TLS.format(port=tls_port, certificate=self._certificate)
            self.tls_address = f"127.0.0.1:{tls_port}"
        text = _CONFIGURATION.format(
            root=self._root,
            port=port,
            tls=tls,
            user=user,
            workers=self._workers,
            log=self._log,
            locations=self._locations,
        )
        configuration.write_text(text)
        # Without -e it writes to the system's log before it reads its configuration.
        arguments: list[str | Path] = [
            self._program,
            "-e",
            "stderr",
            "-p",
            self._root,
            "-c",
            configuration,
        ]
        self._process, _ = Process.until(
            "start worker process ", arguments, environment=bare_environment(self._root / "home")
        )
        self.address = f"127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.stop()


@dataclass(frozen=True, slots=True)
class Access:
    """A line of the access log. *sent* is the bytes of the body."""

    method: str
    status: int
    sent: int
    target: str


class Source(Nginx):
    """The images as a source registry has them, without a sign-in. One worker, so that its log is
    in the order of its answers.

    With *tls* it is asked over TLS. Each image is forgotten when its files are written.
    """

    def __init__(self, root: Path, images: Iterable[FakeImage], *, tls: bool = False) -> None:
        self._access_log = root / "access.log"
        self.authority: Path | None = None
        """The certificate of the authority that has to be trusted, if any."""
        certificate = None
        if tls:
            root.mkdir(parents=True, exist_ok=True)
            authority = CertificateAuthority(root, "bench authority")
            authority.server(["127.0.0.1"])
            self.authority = authority.path
            [certificate] = root.glob("server-*.pem")
        locations = [_location("/v2/", "application/json", 'return 200 "{}";')]
        blobs = root / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        for image in images:
            manifests = {image.manifest.digest: image.manifest} | {
                each.digest: each.manifest for each in image.platforms.values()
            }
            for content in [
                *manifests.values(),
                *(blob for platform in image.platforms.values() for blob in platform.blobs),
            ]:
                (blobs / content.digest.hex).write_bytes(content.content)
            path = f"/v2/{image.repository}"
            locations.append(
                _content_location(f"{path}/manifests/{image.tag}", blobs, image.manifest)
            )
            locations += [
                _content_location(f"{path}/manifests/{each.digest}", blobs, each)
                for each in manifests.values()
            ]
            anything = f"location ~ ^{re.escape(path)}/blobs/sha256:([0-9a-f]+)$"
            locations.append(
                f"{anything} {{ default_type application/octet-stream; "
                f"add_header Docker-Content-Digest sha256:$1; alias {blobs}/$1; }}"
            )
        super().__init__(
            root,
            "\n".join(locations),
            workers="1",
            log=f"{self._access_log} counted",
            certificate=certificate,
        )

    @property
    def endpoint(self) -> str:
        """The address that caches ask."""
        return self.url if self.authority is None else f"https://{self.tls_address}"

    def accesses(self, since: int = 0) -> list[Access]:
        """All requests so far, from a mark on. It logs in the order in which it ends its answers,
        so once the line of a later request is there, all are."""
        marker = f"/v2/?marker={uuid.uuid4().hex}"
        httpx.get(f"{self.url}{marker}", trust_env=False)
        deadline = time.monotonic() + _SETTLING
        while marker not in (log := self._access_log.read_text()):
            if time.monotonic() > deadline:
                raise TimeoutError("nginx does not write its log")
            time.sleep(0.005)
        lines = [line.split(" ", 3) for line in log.splitlines() if "?marker=" not in line]
        return [
            Access(method, int(status), int(sent), target)
            for method, status, sent, target in lines[since:]
        ]

    def mark(self) -> int:
        """How many requests there were so far."""
        return len(self.accesses())

    def __enter__(self) -> Source:
        super().__enter__()
        return self


def _content_location(path: str, blobs: Path, content: Content) -> str:
    return _location(
        path,
        content.media_type,
        f"add_header Docker-Content-Digest {content.digest}; alias {blobs / content.digest.hex};",
    )


def _location(path: str, media_type: str, rest: str) -> str:
    return (
        f"location = {path} {{ default_type {media_type}; "
        f"add_header Docker-Distribution-API-Version registry/2.0; {rest} }}"
    )
