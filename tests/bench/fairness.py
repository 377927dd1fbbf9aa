"""A small answer while others read much: many clients read cached blobs, others cold ones, and one
asks for a cached manifest all the time."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import httpx

from tests.bench.bench import MEGABYTE, Bench
from tests.bench.contenders import Contender
from tests.bench.engine_requests import EngineRequests
from tests.bench.measurement import Load, Measurement
from tests.bench.nginx import Source
from tests.bench.probe import Probe
from tests.bench.process_meter import ProcessMeter
from tests.bench.readers import WrongAnswer
from tests.bench.scenarios import digest_of
from tests.bench.sinks import Plan, Sinks, Totals
from tests.bench.wrk import ACCEPT
from tests.e2e.clients.container_clients import AMD64
from tests.fakes.images import FakeImage, build_image

PROBE_INTERVAL = 0.1
"""Seconds."""


@dataclass
class Blobs:
    """Images of one layer, made one after the other; what is kept of them is where they are."""

    name: str
    sizes: list[int]
    items: list[list[tuple[str, int]]] = field(default_factory=list)
    """For each image the paths of its manifest and its layer, with their sizes in bytes."""

    def images(self) -> Iterator[FakeImage]:
        for number, size in enumerate(self.sizes):
            image = build_image(
                f"library/{self.name}-{number}", "1", [os.urandom(size)], [AMD64], index=False
            )
            path = f"/v2/{image.repository}"
            [layer] = image.platforms[AMD64].layers
            self.items.append(
                [
                    (f"{path}/manifests/{image.tag}", image.manifest.size),
                    (f"{path}/blobs/{layer.digest}", layer.size),
                ]
            )
            yield image

    @property
    def blobs(self) -> list[list[tuple[str, int]]]:
        """Without the manifests."""
        return [item[-1:] for item in self.items]


@dataclass(frozen=True)
class Crowd:
    """How many clients read what, and for how long in seconds. Sizes are in bytes."""

    cached_readers: int = 200
    cold_readers: int = 50
    duration: float = 8.0
    cached: tuple[int, ...] = tuple(n * MEGABYTE for n in range(1, 51, 3))
    cold: tuple[int, ...] = tuple(random.Random(1).randint(1, 20) * MEGABYTE for _ in range(200))


def fairness(bench: Bench, crowd: Crowd) -> list[Measurement]:
    """For each engine three measurements of the same seconds: of the probe, of the clients that
    read cached blobs, and of those that read cold ones, which ask for a manifest before. The
    processor time is that of the engine for all of them."""
    since = len(bench.found)
    cached, cold = Blobs("cached", list(crowd.cached)), Blobs("cold", list(crowd.cold))

    def images() -> Iterator[FakeImage]:
        yield from cached.images()
        yield from cold.images()

    unused = build_image("library/unused", "1", [b"unused"], [AMD64], index=False)
    with bench.source_of(images()) as source:
        for _, start in bench.in_turn(bench.engines):
            with bench.started(start, source, unused) as contender:
                _fill(contender, cached)
                _measure(bench, crowd, contender, source, cached, cold)
    return bench.ended(since)


def _fill(contender: Contender, cached: Blobs) -> None:
    for item in cached.items:
        for path, size in item:
            answer = httpx.get(
                f"http://{contender.address}{path}",
                headers={"Accept": ACCEPT},
                trust_env=False,
                timeout=60,
            )
            if answer.status_code != 200 or len(answer.content) != size:
                raise WrongAnswer(f"{path}: {answer.status_code}, {len(answer.content)} bytes")


def _measure(
    bench: Bench,
    crowd: Crowd,
    contender: Contender,
    source: Source,
    cached: Blobs,
    cold: Blobs,
) -> None:
    plans = [
        Plan(contender.address, crowd.cached_readers, cached.blobs, True, crowd.duration),
        Plan(contender.address, crowd.cold_readers, cold.items, False, crowd.duration),
    ]
    before = source.mark()
    with (
        bench.directory() as directory,
        Probe(contender.address, cached.items[0][0][0], PROBE_INTERVAL, directory / "h") as probe,
        Sinks(plans, directory) as sinks,
    ):
        probe.first_answer()
        start = sinks.start()
        meter = ProcessMeter(contender.pid)
        time.sleep(max(0.0, start + crowd.duration - time.monotonic()))
        processor_seconds, loop_seconds = meter.processor_seconds, meter.main_thread_seconds
        peak_memory = meter.peak_memory
        totals = sinks.totals()
        probed = probe.load(start, start + crowd.duration)
    loop_lag = EngineRequests.to(contender.address, contender.root).loop_lag()
    for measured in totals:
        for failure in measured.failures:
            bench.progress(f"{contender.name}: {failure}")
        for path in measured.complete:
            if digest_of(contender.address, path) != path.rpartition("/")[2]:
                raise WrongAnswer(f"{contender.name} has another blob at {path}")
    crowd_name = f"{crowd.cached_readers} cached and {crowd.cold_readers} cold readers"
    gets = [access for access in source.accesses(before) if access.method == "GET"]
    whole = Measurement(
        f"manifest beside {crowd_name}",
        contender.name,
        probed,
        source_gets=len(gets),
        source_bytes=sum(access.sent for access in gets),
        processor_seconds=processor_seconds,
        peak_memory=peak_memory,
        loop_seconds=loop_seconds,
        loop_lag=loop_lag,
    )
    bench.found_out(whole)
    for what, measured in zip(("cached", "cold"), totals, strict=True):
        bench.found_out(
            replace(
                whole,
                scenario=f"{what} blobs, {crowd_name}",
                load=_load(measured),
                expected=measured.received or 1,
                probe=probed,
            )
        )


def _load(totals: Totals) -> Load:
    return replace(
        Load.of_requests(totals.first_bytes, seconds=totals.seconds, failed=totals.failed),
        received=totals.received,
        requests=totals.blobs,
        first_bytes=tuple(totals.first_bytes),
    )
