"""podman fetches only what it lacks of a layer (zstd:chunked), through the cache (F72)."""

from __future__ import annotations

import io
import random
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clients.container_clients import Podman
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.processes import Finished, run
from tests.e2e.clients.source_registry import DockerRegistry
from tests.programs import require_program

FILES = 60
"""Of 20 kB each that nothing compresses. Every third differs between the two images."""


IMAGES = 12
"""Images pulled at most until podman asks for parts: at random it takes a whole layer, also one of
which it has most files (podman 4.3)."""


class PartialPodman(Podman):
    """podman with storage of the kind overlay, which is the only one that takes parts of layers."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "containers_storage_conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{root}/root"\nrunroot = "{root}/runroot"\n'
            '[storage.options]\npull_options = {enable_partial_images = "true"}\n'
        )

    def run(self, *arguments: str | Path) -> Finished:
        # With --root it would leave out the options of its storage.conf.
        return run([require_program("podman"), *arguments], environment=self._environment)


@pytest.fixture
def podmen() -> Iterator[tuple[PartialPodman, PartialPodman]]:
    """One that makes images, and one that pulls them."""
    # See the fixture podman.
    with tempfile.TemporaryDirectory(prefix="podman-") as directory:
        roots = [Path(directory, name) for name in "ab"]
        for root in roots:
            root.mkdir()
        pair = PartialPodman(roots[0]), PartialPodman(roots[1])
        info = pair[0].run("info")
        if info.status != 0:
            pytest.skip(f"podman has no overlay storage here: {info.output[:200]}")
        try:
            yield pair
        finally:
            for podman in pair:
                # Its storage is mounted on itself.
                podman.run("image", "rm", "--all", "--force")
            umount = require_program("umount")
            for root in roots:
                run([umount, root / "root" / "overlay"], environment={})


def archive(path: Path, number: int) -> Path:
    with tarfile.open(path, "w") as tar:
        for at in range(FILES):
            data = random.Random(at if at % 3 else 1000 * number + at).randbytes(20_000)
            entry = tarfile.TarInfo(f"files/{at:03}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def succeed(finished: Finished) -> str:
    assert finished.status == 0, finished.output
    return finished.output


def test_f72_podman_pulls_only_the_parts_of_a_layer_that_it_lacks(
    podmen: tuple[PartialPodman, PartialPodman],
    entrepot: Entrepot,
    source: DockerRegistry,
    tmp_path: Path,
) -> None:
    maker, podman = podmen
    served = [0]
    for number in range(1, IMAGES + 1):
        image = f"library/chunked:{number}"
        succeed(
            maker.run("import", archive(tmp_path / f"{number}.tar", number), f"localhost/{number}")
        )
        target = f"docker://{source.address}/{image}"
        succeed(
            maker.run(
                "push",
                "--tls-verify=false",
                "--compression-format",
                "zstd:chunked",
                f"localhost/{number}",
                target,
            )
        )
        podman.pull(f"{entrepot.address}/{image}")
        mounted = succeed(podman.run("image", "mount", f"{entrepot.address}/{image}")).split()[-1]
        for at in range(FILES):
            data = random.Random(at if at % 3 else 1000 * number + at).randbytes(20_000)
            assert Path(mounted, "files", f"{at:03}").read_bytes() == data
        succeed(podman.run("image", "unmount", f"{entrepot.address}/{image}"))
        served.append(entrepot.ask("status")["served"])
        # A third of the files and what describes them; the whole layer has 1.2 MB.
        if served[-1] - served[-2] < FILES * 20_000 / 2:
            break
    assert served[1] > FILES * 20_000
    assert served[-1] - served[-2] < FILES * 20_000 / 2
