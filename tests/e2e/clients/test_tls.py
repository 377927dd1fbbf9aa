"""Programs that trust an authority of ``entrepot certificate`` pull over TLS, and no others do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrepot.config.private_authority import create_authority
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.processes import run
from tests.e2e.clients.source_registry import DockerRegistry
from tests.fakes.images import FakeImage
from tests.programs import require_program


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def engine(root: Path, source: DockerRegistry, app: FakeImage) -> Iterator[Entrepot]:
    files = create_authority(root / "trust", ["localhost"])
    settings = f'certificate = "{files.server_certificate}"\nkey = "{files.server_key}"'
    shutil.copy(files.certificate, root / "ca.crt")
    with Entrepot(root / "e", source.url, settings=settings) as engine:
        engine.address = "localhost:0"
        process = engine.launch()
        line = r"answers container clients on (\S+) over TLS with"
        engine.address = process.wait_for_line(line)[1]
        engine.create_rule("library", "library/*", "library/*")
        yield engine


def test_skopeo_pulls_with_the_authority_and_not_without(engine: Entrepot, root: Path) -> None:
    skopeo = require_program("skopeo")
    (root / "certs").mkdir()
    shutil.copy(root / "ca.crt", root / "certs" / "ca.crt")
    image = f"docker://{engine.address}/library/app:1"
    environment = os.environ | {"HOME": str(root)}
    trusting: list[str | Path] = [
        skopeo,
        "copy",
        "--src-cert-dir",
        root / "certs",
        image,
        f"dir:{root / 'copy'}",
    ]
    finished = run(trusting, environment=environment)
    assert finished.status == 0, finished.output
    assert (root / "copy" / "manifest.json").exists()
    finished = run([skopeo, "inspect", image], environment=environment)
    assert finished.status != 0
    assert "certificate signed by unknown authority" in finished.output


def test_curl_with_plain_http_is_told_to_use_https(engine: Entrepot, root: Path) -> None:
    curl = require_program("curl")
    finished = run([curl, "-s", f"http://{engine.address}/v2/"], environment=os.environ)
    assert "This port speaks HTTPS, and the client sent plain HTTP." in finished.output
    trusting: list[str | Path] = [
        curl,
        "-s",
        "--cacert",
        root / "ca.crt",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
    ]
    finished = run([*trusting, f"https://{engine.address}/v2/"], environment=os.environ)
    assert finished.output == "200"
