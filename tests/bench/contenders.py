"""The registries that are compared, each in a process of its own and with empty storage before the
same source."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measurement import BASELINE, DISTRIBUTION, ENTREPOT, PROXY, SOURCE
from tests.bench.nginx import Source
from tests.e2e.clients.container_clients import AMD64
from tests.e2e.clients.entrepot import LOGIN_SERVER, Entrepot
from tests.e2e.clients.processes import STARTING, Process, bare_environment
from tests.fakes.images import FakeImage
from tests.processes import reserved_port
from tests.programs import require_program

COMPLETION = 120.0
"""Seconds that a cache has to keep what it has sent."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A running registry. *complete* waits until it holds all layers of the image."""

    name: str
    address: str
    pid: int
    complete: Callable[[], None]
    root: Path


Start = Callable[[Path, Source, FakeImage], AbstractContextManager[Contender]]


@contextmanager
def through_entrepot(root: Path, source: Source, image: FakeImage) -> Iterator[Contender]:
    """An engine with empty directories and its default settings."""
    with engine_before(root, source) as engine:
        yield engine_contender(engine, image)


def through_another_entrepot(python: Path) -> Start:
    """The engine of another Python environment, such as that of an earlier version."""

    @contextmanager
    def start(root: Path, source: Source, image: FakeImage) -> Iterator[Contender]:
        with engine_before(root, source, python=python) as engine:
            yield engine_contender(engine, image, BASELINE)

    return start


@contextmanager
def engine_before(root: Path, source: Source, *, python: Path | None = None) -> Iterator[Entrepot]:
    """A running engine with a rule for everything that the source has."""
    settings = f"ca_file = {json.dumps(str(source.authority))}\n" if source.authority else ""
    with Entrepot(root, source.endpoint, settings=settings, python=python) as engine:
        write_rules(engine, [("library/*", "library/*")])
        engine.start()
        yield engine
        engine.stop()


def engine_contender(engine: Entrepot, image: FakeImage, name: str = ENTREPOT) -> Contender:
    """A running engine as a contender."""
    return Contender(
        name,
        engine.address,
        engine.process.pid,
        lambda: engine.wait_for_pull(image.repository),
        engine.root,
    )


def write_rules(engine: Entrepot, repositories: list[tuple[str, str]]) -> None:
    """Write cache rules, given as pairs of source and target."""
    entries = [
        f'[[rules]]\nname = "bench-{number}"\n'
        f'source_repository = "{LOGIN_SERVER}/{source}"\ntarget_repository = "{target}"\n'
        for number, (source, target) in enumerate(repositories)
    ]
    engine.directories.rules.write_text("\n".join(entries))


@contextmanager
def through_proxy(root: Path, source: Source, image: FakeImage) -> Iterator[Contender]:
    """The CNCF's registry as a pull-through cache: Debian's configuration with its cache of
    descriptors in memory, but no logs of requests."""
    with _pull_through(PROXY, require_program(PROXY), root, source, image) as contender:
        yield contender


def through_distribution(program: Path) -> Start:
    """A later version of the same registry, configured in the same way."""

    @contextmanager
    def start(root: Path, source: Source, image: FakeImage) -> Iterator[Contender]:
        with _pull_through(DISTRIBUTION, program, root, source, image) as contender:
            yield contender

    return start


@contextmanager
def _pull_through(
    name: str, program: Path, root: Path, source: Source, image: FakeImage
) -> Iterator[Contender]:
    root.mkdir(parents=True, exist_ok=True)
    port = reserved_port()
    configuration = root / "config.json"
    # JSON is YAML, which is what it reads.
    configuration.write_text(
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "error", "accesslog": {"disabled": True}},
                "storage": {
                    "cache": {"blobdescriptor": "inmemory"},
                    "filesystem": {"rootdirectory": str(root / "storage")},
                    "delete": {"enabled": True},
                },
                "http": {"addr": f"127.0.0.1:{port}"},
                "proxy": {"remoteurl": source.endpoint},
            }
        )
    )
    # Version 3 sends traces to a collector unless it is told not to.
    environment = bare_environment(root / "home") | {"OTEL_TRACES_EXPORTER": "none"}
    if source.authority is not None:
        environment["SSL_CERT_FILE"] = str(source.authority)
    links = root / "storage/docker/registry/v2/repositories" / image.repository / "_layers/sha256"
    layers = [links / each.digest.hex / "link" for each in image.platforms[AMD64].layers]

    def complete() -> None:
        # Version 2 fetches each blob a second time to keep it, in the background, and says nothing
        # when that is done.
        deadline = time.monotonic() + COMPLETION
        while not all(each.exists() for each in layers):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} has not kept the image within {COMPLETION:g} s")
            time.sleep(0.005)

    process = Process([program, "serve", configuration], environment=environment)
    try:
        _wait_until_it_answers(name, process, port)
        yield Contender(name, f"127.0.0.1:{port}", process.pid, complete, root)
        process.stop()
    finally:
        if process.is_running:
            process.kill()


def _wait_until_it_answers(name: str, process: Process, port: int) -> None:
    deadline = time.monotonic() + STARTING
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline or not process.is_running:
                raise TimeoutError(f"{name} does not answer:\n{process.output}") from None
            time.sleep(0.005)
        else:
            return


@contextmanager
def straight(root: Path, source: Source, image: FakeImage) -> Iterator[Contender]:
    """The source registry without a cache: the floor."""
    yield Contender(SOURCE, source.address, source.pid, lambda: None, root)
