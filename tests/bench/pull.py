"""``python -m tests.bench.pull``: the same image through Entrepot and through ``docker-registry`` as a pull-through cache, cold and warm, in one run.

Both stand before the same source registry on the same machine and take turns; each round begins with empty caches. The table has medians. Because the source
is on loopback and takes no time of its own, the numbers show what a cache costs, not what it saves.

Then many connections read one blob that Entrepot holds, and the same file from nginx, which is the measure for serving files.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from tests.bench.blob import NGINX, run_blob
from tests.bench.driver import pull_together
from tests.bench.measurement import ENTREPOT, Measurement, ProcessMeter, summary
from tests.clients.container_clients import AMD64, ARM64
from tests.clients.entrepot import Entrepot
from tests.clients.layouts import push
from tests.clients.source_registry import DockerRegistry
from tests.standin.images import StandInImage, build_image

PROXY = "docker-registry proxy"
SOURCE = "source itself"

COMPLETION = 60.0
"""Seconds that a cache has to keep what it has sent."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A running registry. *complete* waits until it holds the whole image."""

    address: str
    pid: int
    complete: Callable[[], None]


@contextmanager
def through_entrepot(root: Path, source: DockerRegistry, image: StandInImage) -> Iterator[Contender]:
    """An engine with empty directories."""
    with Entrepot(root, source.url) as engine:
        engine.start()
        engine.create_rule("bench-rule", f"{image.repository}", f"{image.repository}")
        yield Contender(engine.address, engine.process.pid, lambda: engine.wait_for_pull(image.repository))
        engine.stop()


@contextmanager
def through_proxy(root: Path, source: DockerRegistry, image: StandInImage) -> Iterator[Contender]:
    """The CNCF's registry as a pull-through cache with empty storage."""
    with DockerRegistry(root, proxy_of=source.url) as proxy:
        layers = root / "storage/docker/registry/v2/repositories" / image.repository / "_layers/sha256"
        links = [layers / each.digest.hex / "link" for each in image.platforms[AMD64].blobs]

        def complete() -> None:
            # It fetches each blob a second time to keep it, in the background, and says nothing when that is done.
            deadline = time.monotonic() + COMPLETION
            while not all(each.exists() for each in links):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{PROXY} has not kept the image within {COMPLETION:g} s")
                time.sleep(0.005)

        yield Contender(proxy.address, proxy.pid, complete)


@contextmanager
def straight(root: Path, source: DockerRegistry, image: StandInImage) -> Iterator[Contender]:
    """The source registry without a cache: the floor."""
    yield Contender(source.address, source.pid, lambda: None)


CONTENDERS: dict[str, Callable[[Path, DockerRegistry, StandInImage], AbstractContextManager[Contender]]] = {
    ENTREPOT: through_entrepot,
    PROXY: through_proxy,
    SOURCE: straight,
}


def measure(scenario: str, through: str, contender: Contender, source: DockerRegistry, image: StandInImage, clients: int) -> Measurement:
    """Pull once. The time is the clients' time; processor time and requests at the source count until the cache has kept everything."""
    before = source.mark()
    meter = ProcessMeter(contender.pid)
    started = time.perf_counter()
    received = pull_together(clients, contender.address, image.repository, image.tag, AMD64)
    seconds = time.perf_counter() - started
    contender.complete()
    accesses = source.accesses()[before:]
    return Measurement(
        scenario=scenario,
        through=through,
        seconds=seconds,
        received=received,
        source_gets=sum(each.method == "GET" for each in accesses),
        source_bytes=sum(each.sent for each in accesses if each.method == "GET"),
        processor_seconds=meter.processor_seconds,
        peak_memory=meter.peak_memory,
    )


def run(*, rounds: int, layers: Sequence[int], clients: Sequence[int], progress: Callable[[str], None] = lambda _: None) -> list[Measurement]:
    """All rounds; *layers* are their sizes in bytes, *clients* how many pull at once in each scenario."""
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        root = Path(directory)
        with DockerRegistry(root / "source") as source:
            image = build_image("library/bench", "1", list(layers), [AMD64, ARM64], index=True)
            push(image, source.address, root / "images")
            for number in range(rounds):
                # Who goes first changes, so that nobody always has the warmer machine.
                order = list(CONTENDERS)[number % len(CONTENDERS) :] + list(CONTENDERS)[: number % len(CONTENDERS)]
                for crowd in clients:
                    for through in order:
                        with tempfile.TemporaryDirectory(prefix="round-", dir=root) as fresh, CONTENDERS[through](Path(fresh), source, image) as contender:
                            for state in ("cold", "warm"):
                                scenario = f"{state}, {crowd} client" + ("s" if crowd > 1 else "")
                                found.append(measure(scenario, through, contender, source, image, crowd))
                                progress(f"round {number + 1} of {rounds}: {scenario}, {through}: {found[-1].seconds:.3f} s")
    order_shown = {name: place for place, name in enumerate(CONTENDERS)}
    return sorted(found, key=lambda each: (int(each.scenario.split()[1]), each.scenario, order_shown[each.through]))


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--layers", default=4, show_default=True, type=click.IntRange(1), help="How many layers the image has.")
@click.option("--layer-size", default=50, show_default=True, type=click.IntRange(1), help="Of each layer, in MB.")
@click.option("--clients", default="1,8", show_default=True, help="How many clients pull at once, one scenario for each.")
@click.option("--blob-size", default=128, show_default=True, type=click.IntRange(1), help="Of the blob that many connections read, in MB.")
@click.option("--connections", default=16, show_default=True, type=click.IntRange(1), help="How many connections read that blob at once.")
def main(rounds: int, layers: int, layer_size: int, clients: str, blob_size: int, connections: int) -> None:
    """Run the benchmark and print its table."""
    crowds = [int(each) for each in clients.split(",")]

    def progress(line: str) -> None:
        click.echo(line, err=True)

    try:
        found = run(rounds=rounds, layers=[layer_size * 1_000_000] * layers, clients=crowds, progress=progress)
        of_blob = run_blob(rounds=rounds, size=blob_size * 1_000_000, connections=connections, progress=progress)
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        raise click.ClickException(str(missing)) from None
    click.echo(f"An image of {layers} layers of {layer_size} MB, {rounds} rounds, medians. Times: how often as fast as {PROXY}.")
    click.echo(summary(found, compared_with=PROXY))
    click.echo(f"\nA blob of {blob_size} MB that is held, {connections} connections, {rounds} rounds, medians. Times: how often as fast as {NGINX}.")
    click.echo(summary(of_blob, compared_with=NGINX))


if __name__ == "__main__":
    main()
