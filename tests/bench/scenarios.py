"""What is measured. Every scenario is a function that gives its measurements; in each round the
contenders take turns, and who goes first changes."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx

from entrepot.api.client import CacheClient
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialBook
from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.registries import SourceRegistries
from entrepot.core.rules import RuleBook, RuleDraft
from entrepot.demo.images import GeneratedDescriptor, build_manifest
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import Manifest
from tests.bench.bench import MEGABYTE, Bench, image_of
from tests.bench.contenders import Contender, write_rules
from tests.bench.driver import pull_together
from tests.bench.measurement import ENTREPOT, NGINX, Load, Measurement
from tests.bench.nginx import Nginx
from tests.bench.process_meter import ProcessMeter
from tests.bench.readers import WrongAnswer, read_together
from tests.bench.wrk import ACCEPT, ask_again_and_again
from tests.e2e.clients.container_clients import AMD64
from tests.e2e.clients.entrepot import LOGIN_SERVER, Entrepot


def image_pull(
    bench: Bench, layers: Sequence[int], clients: int = 1, *, tls: bool = False
) -> list[Measurement]:
    """An image, cold and then warm, as docker pulls it. With *tls* the source is asked over TLS,
    and the image is pulled cold only."""
    since = len(bench.found)
    image = image_of("image", layers)
    size = sum({each.digest: each.size for each in image.platforms[AMD64].blobs}.values())
    what = f"{len(layers)} layers of {layers[0] / MEGABYTE:g} MB, {_counted(clients, 'client')}"
    contenders = bench.caches if tls else bench.caches_and_source
    over = " over TLS" if tls else ""
    with bench.source(image, tls=tls) as source:
        for _, start in bench.in_turn(contenders):
            with bench.started(start, source, image) as contender:
                for state in ("cold",) if tls else ("cold", "warm"):
                    bench.measure(
                        f"{state} image{over}: {what}",
                        contender,
                        source,
                        lambda: pull_together(
                            contender.address,
                            image.repository,
                            image.tag,
                            AMD64,
                            clients,
                            bench.home,
                        ),
                        expected=size,
                    )
    return bench.ended(since)


def warm_blob(bench: Bench, size: int, connections: Sequence[int]) -> list[Measurement]:
    """A blob that is held, read by some connections at once; nginx serves the very file that
    Entrepot keeps."""
    since = len(bench.found)
    image = image_of("blob", [size])
    with ExitStack() as running, bench.source(image) as source:
        caches = [
            running.enter_context(bench.started(start, source, image))
            for start in bench.caches.values()
        ]
        [blob] = image.platforms[AMD64].layers
        for cache in caches:
            pull_together(cache.address, image.repository, image.tag, AMD64, 1, bench.home)
            cache.complete()
        [file] = [each for each in (caches[0].root / "d").rglob(blob.digest.hex) if each.is_file()]
        nginx = running.enter_context(Nginx.with_file(bench.root / "nginx", file))
        path = f"/v2/{image.repository}/blobs/{blob.digest}"
        contenders = [(each, path) for each in caches] + [
            (Contender(NGINX, nginx.address, nginx.pid, lambda: None, bench.root), "/file")
        ]
        for contender, where in contenders:
            if digest_of(contender.address, where) != str(blob.digest):
                raise WrongAnswer(f"{contender.address}{where}")
        for number in range(bench.rounds):
            for count in connections:
                first = number % len(contenders)
                for contender, where in contenders[first:] + contenders[:first]:
                    bench.measure(
                        f"warm blob of {size / MEGABYTE:g} MB, {_counted(count, 'connection')}",
                        contender,
                        source,
                        lambda: read_together(
                            contender.address,  # noqa: B023
                            [where],  # noqa: B023
                            count,  # noqa: B023
                            [blob.size],
                            bench.home,
                        ),
                        expected=blob.size,
                    )
    return bench.ended(since)


def warm_manifest(bench: Bench, connections: int, seconds: float) -> list[Measurement]:
    """The manifest of a cached image, by its tag (within the tag lifetime) and by its digest."""
    since = len(bench.found)
    image = image_of("manifest", [20_000] * 6)
    manifest = image.platforms[AMD64].manifest
    with ExitStack() as running, bench.source(image) as source:
        caches = [
            running.enter_context(bench.started(start, source, image))
            for start in bench.caches.values()
        ]
        for cache in caches:
            pull_together(cache.address, image.repository, image.tag, AMD64, 1, bench.home)
            cache.complete()
        for number in range(bench.rounds):
            for how, reference in (("tag", image.tag), ("digest", str(manifest.digest))):
                for contender in caches[:: -1 if number % 2 else 1]:
                    url = f"http://{contender.address}/v2/{image.repository}/manifests/{reference}"
                    bench.measure(
                        f"warm manifest by {how}, {_counted(connections, 'connection')}",
                        contender,
                        source,
                        lambda: ask_again_and_again(
                            url,  # noqa: B023
                            connections=connections,
                            seconds=seconds,
                            home=bench.home,
                        ),
                    )
    return bench.ended(since)


def cold_blobs(
    bench: Bench, clients: int, size: int, blobs: int = 1, *, tls: bool = False
) -> list[Measurement]:
    """Many clients that ask for cold blobs of one image at the same moment, having read its
    manifests. With *tls* the source is asked over TLS."""
    since = len(bench.found)
    image = image_of("crowd", [size] * blobs)
    platform = image.platforms[AMD64]
    expected = sum({each.digest: each.size for each in platform.layers}.values())
    paths = [f"/v2/{image.repository}/blobs/{each.digest}" for each in platform.layers]
    what = (
        f"cold blob of {size / MEGABYTE:g} MB"
        if blobs == 1
        else f"{blobs} cold blobs of {size / MEGABYTE:g} MB"
    ) + (" over TLS" if tls else "")
    with bench.source(image, tls=tls) as source:
        for _, start in bench.in_turn(bench.caches):
            with bench.started(start, source, image) as contender:
                for reference in (image.tag, str(platform.digest)):
                    httpx.get(
                        f"http://{contender.address}/v2/{image.repository}/manifests/{reference}",
                        headers={"Accept": ACCEPT},
                        trust_env=False,
                    ).raise_for_status()
                bench.measure(
                    f"{what}, {_counted(clients, 'client')}",
                    contender,
                    source,
                    lambda: read_together(
                        contender.address,
                        paths,
                        clients,
                        [each.size for each in platform.layers],
                        bench.home,
                    ),
                    expected=expected,
                )
                if digest_of(contender.address, paths[0]) != str(platform.layers[0].digest):
                    raise WrongAnswer(f"{contender.name} has another blob at {paths[0]}")
    return bench.ended(since)


def large_cache(bench: Bench, repositories: int, rules: int) -> list[Measurement]:
    """An engine with many repositories and rules: its start until its first answer, what a
    dashboard asks, and how long it takes to find a rule."""
    since = len(bench.found)
    what = f"{repositories:,} repositories, {rules:,} rules"
    names = [f"team-{number % rules}/app-{number // rules}" for number in range(repositories)]
    drafts = [(f"upstream-{number}/*", f"team-{number}/*") for number in range(rules)]
    image = image_of("large", [20_000])
    with (
        tempfile.TemporaryDirectory(prefix="l-", dir=bench.root) as fresh,
        bench.source(image) as source,
    ):
        engine = Entrepot(Path(fresh), source.url)
        write_rules(engine, drafts)
        asyncio.run(fill_catalog(engine.directories, names))
        # It takes in the blobs, and learns its port, which stays, so that the first request may
        # come before the engine says where it answers.
        engine.start().process.wait_for_line(
            "The catalog was reconciled with the disk", timeout=120
        )
        engine.stop()
        for _ in range(bench.rounds):
            before, started = source.mark(), time.perf_counter()
            with engine:
                process = engine.launch()
                _wait_for_manifest(engine.address, f"/v2/{names[-1]}/manifests/1", process.pid)
                seconds, peak_memory = (
                    time.perf_counter() - started,
                    ProcessMeter(process.pid).peak_memory,
                )
                gets = len(source.accesses(before))
                process.wait_for_line("answers container clients")
                asyncio.run(_ask_as_a_dashboard(bench, engine.directories, what))
                process.stop()
            bench.found_out(
                Measurement(
                    f"start with {what}",
                    ENTREPOT,
                    Load(seconds),
                    source_gets=gets,
                    peak_memory=peak_memory,
                )
            )
        registries = SourceRegistries(Settings.load(engine.directories.settings).upstreams)
        book = RuleBook(registries, CredentialBook(registries))
        for number, (upstream, target) in enumerate(drafts):
            book = book.with_rule(
                book.parse(RuleDraft(f"bench-{number}", f"{LOGIN_SERVER}/{upstream}", target))
            )
        for _ in range(bench.rounds):
            started, processor = time.perf_counter(), time.process_time()
            routed = sum(book.route(name) is not None for name in names)
            load = Load(seconds=time.perf_counter() - started, requests=routed)
            bench.found_out(
                Measurement(
                    f"routing among {rules:,} rules",
                    ENTREPOT,
                    load,
                    processor_seconds=time.process_time() - processor,
                )
            )
    return bench.ended(since)


async def _ask_as_a_dashboard(bench: Bench, directories: Directories, what: str) -> None:
    """What a dashboard asks every two seconds, once when it comes and once when nothing has changed
    since; and what an eviction of everything would take."""
    async with CacheClient.at(directories.socket) as client:
        await client.system.status()
        questions: dict[str, Callable[[], Awaitable[object]]] = {
            "listing of the rules": client.rules.list,
            "listing of the repositories": client.repositories.list,
            "listing again of the rules": client.rules.list,
            "listing again of the repositories": client.repositories.list,
            "plan of an eviction": lambda: client.system.preview_eviction(target=0),
        }
        for name, ask in questions.items():
            started = time.perf_counter()
            await ask()
            bench.found_out(
                Measurement(f"{name}, {what}", ENTREPOT, Load(time.perf_counter() - started))
            )


async def fill_catalog(directories: Directories, names: Sequence[str]) -> None:
    """A cached image of three small blobs in each repository, as if all of them had been pulled;
    the engine takes in the blobs when it starts."""
    directories.make()
    store = BlobStore(directories.blobs, directories.fills)
    await store.open()
    try:
        async with Catalog.open(directories.catalog) as catalog:
            for name in names:
                contents = [f"{name} {part}".encode() for part in ("config", "layer-1", "layer-2")]
                config, *layers = [
                    GeneratedDescriptor.of("application/vnd.oci.image.layer.v1.tar+gzip", each)
                    for each in contents
                ]
                content = build_manifest(config, layers)
                manifest = Manifest.of(content, OCI_MANIFEST, Digest.of(content))
                await catalog.add_manifest(
                    Repository(name),
                    f"{LOGIN_SERVER}/{name}",
                    manifest,
                    platform=AMD64,
                    tags=[Tag("1")],
                    now=time.time(),
                )
                for blob in contents:
                    digest = Digest.of(blob)
                    file = store.path(digest)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(blob)
    finally:
        store.close()


def _wait_for_manifest(address: str, path: str, pid: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        host, _, port = address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request("GET", path, headers={"Accept": ACCEPT})
            answer = connection.getresponse()
            answer.read()
        except ConnectionRefusedError:
            if time.monotonic() > deadline or not Path(f"/proc/{pid}").exists():
                raise
            time.sleep(0.002)
        else:
            if answer.status != 200:
                raise WrongAnswer(f"{path}: {answer.status}")
            return
        finally:
            connection.close()


def digest_of(address: str, path: str) -> str:
    """The SHA-256 of what a server has at a path."""
    hasher = hashlib.sha256()
    with httpx.stream("GET", f"http://{address}{path}", trust_env=False, timeout=300) as answer:
        for chunk in answer.iter_raw():
            hasher.update(chunk)
    return f"sha256:{hasher.hexdigest()}"


def _counted(count: int, one: str) -> str:
    return f"{count} {one}{'s' if count > 1 else ''}"
