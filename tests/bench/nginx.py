"""A real nginx that serves one file, to compare with: nobody expects a cache in Python to be faster."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.clients.processes import Process, bare_environment
from tests.programs import require_program

_CONFIGURATION = """\
daemon off;
worker_processes auto;
pid {root}/pid;
error_log stderr notice;
{user}
events {{ }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location = /file {{ alias {file}; }}
    }}
}}
"""


class Nginx:
    """nginx on a free port of 127.0.0.1, with everything that it writes below *root*; it serves *file* at ``/file``."""

    def __init__(self, root: Path, file: Path) -> None:
        self._program = require_program("nginx")
        self._root = root
        self._file = file
        self._process: Process | None = None
        self.address = ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Nginx:
        self._root.mkdir(parents=True, exist_ok=True)
        # It does not take 0 for any free port.
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        configuration = self._root / "nginx.conf"
        # Started by root, its workers would run as a user who may not read below a temporary directory.
        user = "user root;" if os.geteuid() == 0 else ""
        configuration.write_text(_CONFIGURATION.format(root=self._root, port=port, file=self._file, user=user))
        # Without -e it writes to the system's log before it reads its configuration.
        arguments: list[str | Path] = [self._program, "-e", "stderr", "-p", self._root, "-c", configuration]
        self._process, _ = Process.until("start worker process ", arguments, environment=bare_environment(self._root / "home"))
        self.address = f"127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.stop()
