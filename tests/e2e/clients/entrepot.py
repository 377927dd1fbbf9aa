"""``entrepot serve`` as users run it: a process with directories of its own, ruled through the
command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from entrepot.config.directories import Directories
from tests.e2e.clients.processes import Finished, Process, bare_environment, run

CHECKOUT = Path(__file__).parents[3]
LOGIN_SERVER = "registry.example.com"
"""The name under which the tests declare their source registry."""


class Entrepot:
    """An engine that need not run: its directories stay, so it can be stopped or killed and started
    again, on the same port.

    *source* is the endpoint of the source registry, and *login_server* its name, with a policy of
    its own unless *sign_in* is None. *settings* are further lines for the top of ``settings.toml``;
    *variables* go into the engine's environment. *program* is what Python runs as ``entrepot``.
    *python* is the Python of another environment, whose own Entrepot runs in place of this one.
    """

    def __init__(
        self,
        root: Path,
        source: str,
        *,
        login_server: str = LOGIN_SERVER,
        sign_in: str | None = "optional",
        settings: str = "",
        variables: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "entrepot"),
        python: Path | None = None,
    ) -> None:
        self.root = root
        self.python = Path(sys.executable) if python is None else python
        self._program = program
        # Wherever pytest puts its temporary directories: a Unix socket's path may have 107 bytes at
        # the most, so its names are short here.
        self.environment = bare_environment(root / "h") | {
            "XDG_CONFIG_HOME": str(root / "c"),
            "XDG_DATA_HOME": str(root / "d"),
            "XDG_RUNTIME_DIR": str(root / "r"),
            "XDG_STATE_HOME": str(root / "s"),
            # Without the current directory, which is a checkout too.
            **({"PYTHONPATH": str(CHECKOUT)} if python is None else {"PYTHONSAFEPATH": "1"}),
        }
        self._variables = dict(variables or {})
        self.directories = Directories(*(root / part / "entrepot" for part in "cdrs"))
        self.directories.config.mkdir(parents=True, exist_ok=True)
        policy = "" if sign_in is None else f'sign_in = "{sign_in}"\n'
        self.directories.settings.write_text(
            f'{settings}\n[upstreams."{login_server}"]\nendpoint = "{source}"\n{policy}'
        )
        self._login_server = login_server
        self.address = "127.0.0.1:0"
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def process(self) -> Process:
        assert self._process is not None, "the engine was not started"
        return self._process

    def launch(self, *options: str, prefix: Sequence[str | Path] = ()) -> Process:
        """Begin to start it, without waiting until it answers; *prefix* is a program that starts
        it."""
        arguments = [
            *prefix,
            self.python,
            *self._program,
            "serve",
            "--listen",
            self.address,
            *options,
        ]
        self._process = Process(arguments, environment=self.environment | self._variables)
        return self._process

    def start(self) -> Entrepot:
        """Start it, and wait until it answers."""
        started = self.launch().wait_for_line(r"answers container clients on (\S+) (?:over|with)")
        self.address = started[1]
        return self

    def stop(self) -> Finished:
        return self.process.stop()

    def kill(self) -> None:
        self.process.kill()

    def run(self, *arguments: str, check: bool = True) -> Finished:
        """Run a command of ``entrepot``; with *check* it has to succeed."""
        finished = run([self.python, "-m", "entrepot", *arguments], environment=self.environment)
        assert not check or finished.status == 0, finished.output
        return finished

    def ask(self, *arguments: str) -> Any:
        """Run a command of ``entrepot`` that answers in JSON."""
        return json.loads(self.run(*arguments, "--json").output)

    def create_rule(
        self, name: str, source_repository: str, target: str, credential_set: str | None = None
    ) -> None:
        """Make a cache rule; *source_repository* goes without the login server."""
        options = [] if credential_set is None else ["--cred-set", credential_set]
        self.run(
            "rule",
            "create",
            "--name",
            name,
            "--source-repo",
            f"{self._login_server}/{source_repository}",
            "--target-repo",
            target,
            *options,
        )

    def create_credential_set(self, name: str, username_id: str, password_id: str) -> None:
        options = [
            "--login-server",
            self._login_server,
            "--username-id",
            username_id,
            "--password-id",
            password_id,
        ]
        self.run("credential-set", "create", "--name", name, *options)

    def wait_for_pull(self, image: str = "", *, since: int = 0) -> None:
        """Wait until a pull of an image has made it complete."""
        self.process.wait_for_line(rf"The pull of {image}.* is completed", since=since)

    def cached_blobs(self) -> set[str]:
        """The digests of all blobs in the data directory."""
        return {
            f"{each.parent.parent.name}:{each.name}"
            for each in self.directories.blobs.rglob("*")
            if each.is_file()
        }

    def unfinished(self) -> list[Path]:
        """Files of blobs that are on their way in."""
        return (
            [each for each in self.directories.fills.rglob("*") if each.is_file()]
            if self.directories.fills.exists()
            else []
        )

    def get(self, path: str, **options: Any) -> httpx.Response:
        """A raw request of a container client."""
        return httpx.get(f"{self.url}{path}", trust_env=False, verify=False, timeout=30, **options)

    def everything_written(self) -> dict[Path, bytes]:
        """Every file below its directories, and what it said."""
        files = {each: each.read_bytes() for each in self.root.rglob("*") if each.is_file()}
        return files | {Path("output"): self.process.output.encode()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.is_running:
            self._process.kill()
