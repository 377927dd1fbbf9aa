"""Many clients ask for the same uncached blob at the same time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.e2e.clients.container_clients import AMD64
from tests.e2e.clients.entrepot import CHECKOUT, Entrepot
from tests.e2e.clients.layouts import push
from tests.e2e.clients.processes import bare_environment, run
from tests.e2e.clients.source_registry import DockerRegistry
from tests.fakes.images import FakeImage, build_image

CROWD = 50
LAYER = 200_000_000
"""Bytes."""

MEMORY = 400_000_000
"""Bytes that the engine may use at its peak: twice the blob, where fifty copies of it would be 10
GB."""


@pytest.fixture(scope="module")
def big(source: DockerRegistry, tmp_path_factory: pytest.TempPathFactory) -> FakeImage:
    image = build_image("library/big", "1", [LAYER], [AMD64], index=False)
    push(image, source.address, tmp_path_factory.mktemp("big"))
    return image


def test_fifty_clients_ask_for_a_cold_blob_and_the_source_sees_one_get(
    entrepot: Entrepot, source: DockerRegistry, big: FakeImage, tmp_path: Path
) -> None:
    layer = big.platforms[AMD64].layers[0]
    before = source.mark()
    finished = run(
        [
            sys.executable,
            "-m",
            "tests.e2e.clients.many_readers",
            entrepot.address,
            "library/big",
            "1",
            str(layer.digest),
            str(CROWD),
        ],
        environment=bare_environment(tmp_path) | {"PYTHONPATH": str(CHECKOUT)},
    )
    assert finished.status == 0, finished.output
    got = json.loads(finished.output)
    assert [(each.get("status"), each.get("size"), each.get("digest")) for each in got] == [
        (200, layer.size, str(layer.digest))
    ] * CROWD, got
    blob_requests = [
        each
        for each in source.accesses()[before:]
        if "/blobs/" in each.target and str(layer.digest) in each.target
    ]
    assert [(each.method, each.sent) for each in blob_requests] == [("GET", layer.size)]
    manifests = [
        each
        for each in source.accesses()[before:]
        if each.method == "GET" and "/manifests/" in each.target
    ]
    assert len(manifests) == 1, manifests
    assert _peak_memory(entrepot.process.pid) < MEMORY


def _peak_memory(pid: int) -> int:
    """Of the resident pages, in bytes (proc(5), VmHWM)."""
    [line] = [
        each
        for each in Path(f"/proc/{pid}/status").read_text().splitlines()
        if each.startswith("VmHWM:")
    ]
    return int(line.split()[1]) * 1024
