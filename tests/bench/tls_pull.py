"""``entrepot pull``: an image that no client reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.bench.bench import MEGABYTE, Bench, image_of
from tests.bench.contenders import engine_before, engine_contender
from tests.bench.measurement import BASELINE, ENTREPOT, Load, Measurement
from tests.bench.readers import WrongAnswer
from tests.e2e.clients.container_clients import AMD64
from tests.e2e.clients.entrepot import Entrepot
from tests.fakes.images import FakeImage


def pull_without_client(bench: Bench, layers: Sequence[int]) -> list[Measurement]:
    """An image over TLS; the time is that which the engine states for the pull."""
    since = len(bench.found)
    image = image_of("pull", layers)
    size = image.platforms[AMD64].size
    pythons: dict[str, Path | None] = {ENTREPOT: None}
    if bench.baseline is not None:
        pythons[BASELINE] = bench.baseline
    layer = "layer" if len(layers) == 1 else "layers"
    scenario = f"entrepot pull over TLS: {len(layers)} {layer} of {layers[0] / MEGABYTE:g} MB"
    with bench.source(image, tls=True) as source:
        for name, python in bench.in_turn(pythons):
            with (
                bench.directory() as root,
                engine_before(root, source, python=python) as engine,
            ):
                bench.measure(
                    scenario,
                    engine_contender(engine, image, name),
                    source,
                    partial(_pull, engine, image),
                    expected=size,
                )
    return bench.ended(since)


def _pull(engine: Entrepot, image: FakeImage) -> Load:
    reference = f"{image.repository}:{image.tag}"
    output = engine.run("pull", reference, "--platform", AMD64, "--json").output
    # Standard output and standard error together: a line for people stands around the document.
    pull = json.JSONDecoder().raw_decode(output, output.index("{"))[0]
    size = image.platforms[AMD64].size
    if pull["state"] != "completed" or pull["fromSource"] != size:
        raise WrongAnswer(output)
    return Load(pull["ended"] - pull["started"], received=size)
