"""Make the pictures in this folder: the real dashboard on the demo's engine, as SVG and PNG.

    python screenshots/make.py

It needs cairosvg and the font DejaVu Sans Mono.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, chdir, suppress
from dataclasses import replace
from pathlib import Path

import bcrypt
import cairosvg  # type: ignore[import-untyped]
import httpx
from textual.pilot import Pilot
from textual.worker import WorkerCancelled

from entrepot.api.client import CacheClient
from entrepot.config.directories import Directories
from entrepot.config.reader_settings import ReaderSettings
from entrepot.config.settings import Settings
from entrepot.core.reference import ImageReference
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.demo import run as demo
from entrepot.demo.registry import demo_registry_app, served_on_loopback
from entrepot.engine.engine import Engine
from entrepot.server.run import management_app, registry_app
from tui.app import Dashboard
from tui.areas import AREAS
from tui.outcome import DashboardOutcome
from tui.theme import DARK, LIGHT

FOLDER = Path(__file__).parent
WIDE = (120, 40)
DESIGN = (80, 24)
SPEED = 2_500_000.0

_KEYS = {
    "/": "slash",
    "*": "asterisk",
    ".": "full_stop",
    "-": "minus",
    ":": "colon",
    "_": "underscore",
}


class Camera:
    """A dashboard under a script that types keys and takes pictures."""

    def __init__(self, app: Dashboard, pilot: Pilot[DashboardOutcome]) -> None:
        self.app = app
        self.pilot = pilot

    async def press(self, *keys: str) -> None:
        """Press keys, and wait until the screen has settled."""
        await self.pilot.press(*keys)
        await self.settle()

    async def type(self, text: str) -> None:
        """Type a text."""
        await self.press(*(_KEYS.get(letter, letter) for letter in text))

    async def settle(self, seconds: float = 0.4) -> None:
        """Let the engine answer, however long that takes on a busy machine."""
        await self.pilot.pause()
        while getattr(self.app.screen, "queues_keys", False):
            await self.pilot.pause(0.1)
        asking = [worker for worker in self.app.workers if worker.group in {"poll", "validate"}]
        if asking:
            # A question whose screen was left is taken back.
            with suppress(WorkerCancelled):
                await self.app.workers.wait_for_complete(asking)
        await self.pilot.pause(seconds)

    async def area(self, name: str) -> None:
        """Go to an area."""
        await self.press(str(AREAS.index(name) + 1))

    def picture(self, name: str) -> None:
        """Keep what the screen shows."""
        svg = self.app.export_screenshot(title="entrepot")
        # The pictures must look the same without the internet: no font is fetched.
        svg = re.sub(r"@font-face\s*{[^}]*}", "", svg).replace("Fira Code", "DejaVu Sans Mono")
        (FOLDER / f"{name}.svg").write_text(svg)
        cairosvg.svg2png(bytestring=svg.encode(), write_to=str(FOLDER / f"{name}.png"))


@asynccontextmanager
async def camera(
    engine: Engine, *, size: tuple[int, int] = DESIGN, theme: str = DARK.name
) -> AsyncIterator[Camera]:
    """A dashboard on the demo's engine."""
    app = Dashboard(CacheClient.of_app(management_app(engine)))
    async with app.run_test(size=size) as pilot:
        app.theme = theme
        camera = Camera(app, pilot)
        await camera.settle()
        yield camera


async def pulled(engine: Engine, image: str) -> None:
    """Have an image in the cache."""
    started = await engine.pulls.start(image, "linux/amd64", "10.0.4.17")
    await engine.cache.pulls.get(started.id).finished.wait()


async def started(engine: Engine, *pulls: tuple[str, str, str]) -> None:
    """Start pulls: image, platform, client. Earlier ones have ended."""
    await all_ended(engine)
    for image, platform, client in pulls:
        await engine.pulls.start(image, platform, client)


async def all_ended(engine: Engine) -> None:
    """Wait for all pulls."""
    for pull in engine.cache.pulls.all():
        await pull.finished.wait()


async def served(engine: Engine, image: str, times: int) -> None:
    """Have container clients pull an image that is held."""
    reference = ImageReference.parse(image)
    transport = httpx.ASGITransport(registry_app(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://entrepot") as client:
        index = (
            await client.get(f"/v2/{reference.repository}/manifests/{reference.manifest}")
        ).json()
        manifest = (
            await client.get(
                f"/v2/{reference.repository}/manifests/{index['manifests'][0]['digest']}"
            )
        ).json()
        for _ in range(times):
            for blob in (manifest["config"], *manifest["layers"]):
                await client.get(f"/v2/{reference.repository}/blobs/{blob['digest']}")


async def take(engine: Engine) -> None:
    """All pictures, in the order of a visit."""
    async with camera(engine) as first:
        await first.area("Repositories")
        first.picture("empty")
    for image in (
        "library/alpine:3.21",
        "library/alpine:3.20",
        "acme/api:1.4.1",
        "library/nginx:1.27",
    ):
        await pulled(engine, image)
        await served(engine, image, 9)
    await started(
        engine,
        ("library/postgres:17", "linux/amd64", "10.0.4.17"),
        ("dotnet/sdk:9.0", "linux/amd64", "10.0.4.22"),
        ("library/nginx:1.28", "linux/arm64", "dashboard"),
    )
    async with camera(engine) as at:
        await at.settle(1.5)
        at.picture("overview")
        await at.area("Pulls")
        await at.press("down", "down")
        at.picture("pulls")
        await at.press("enter")
        at.picture("pull")
    await started(
        engine,
        ("library/postgres:17", "linux/arm64", "10.0.4.17"),
        ("dotnet/sdk:9.0", "linux/arm64", "10.0.4.22"),
    )
    async with camera(engine, theme=LIGHT.name) as at:
        at.picture("overview-light")
        await at.area("Pulls")
        at.picture("pulls-light")
    await started(
        engine,
        ("library/postgres:16", "linux/amd64", "10.0.4.17"),
        ("library/nginx:1.28", "linux/amd64", "10.0.4.31"),
    )
    async with camera(engine, size=WIDE) as at:
        at.picture("overview-wide")
        await all_ended(engine)
        await at.area("Rules")
        at.picture("rules-wide")
        await at.area("Repositories")
        at.picture("repositories-wide")
        await at.press("enter", "enter")
        at.picture("tag-wide")
    async with camera(engine, size=WIDE, theme=LIGHT.name) as at:
        await at.area("Repositories")
        at.picture("repositories-light-wide")
    async with camera(engine) as at:
        await at.area("Rules")
        at.picture("rules")
        await at.press("question_mark")
        at.picture("help")
        await at.press("escape")
        await at.press("d")
        at.picture("delete-rule")
        await at.press("escape")
        await at.press("w")
        await at.type("library/nginx:1.27")
        at.picture("which-rule")
        await at.press("escape")
        await at.press("colon")
        await at.type("pull")
        at.picture("commands")
        await at.press("escape")
        await at.area("Credentials")
        at.picture("credentials")
        await at.area("Repositories")
        at.picture("repositories")
        await at.press("d")
        at.picture("delete-repository")
        await at.press("escape")
        await at.press("enter")
        at.picture("repository")
        await at.press("enter")
        at.picture("tag")
        await at.press("y")
        at.picture("copy")
        await at.press("escape")
        await at.area("Sources")
        at.picture("sources")
        await at.area("Events")
        at.picture("events")
        await rule_wizard(at)
        await credential_wizard(at)
        await import_wizard(at)


async def rule_wizard(at: Camera) -> None:
    """Each step of the wizard for a cache rule, and a refusal."""
    await at.area("Rules")
    await at.press("n")
    at.picture("wizard-source")
    await at.press("down", "down", "down", "down", "down", "enter")
    await at.type("acme/api:1.4")
    at.picture("wizard-refusal")
    await at.press("ctrl+u")
    await at.type("acme/*")
    at.picture("wizard-repository")
    await at.press("enter")
    at.picture("wizard-target")
    await at.press("enter")
    at.picture("wizard-sign-in")
    await at.press("enter")
    at.picture("wizard-freshness")
    await at.press("enter")
    at.picture("wizard-review")
    await at.press("enter")
    at.picture("wizard-first-pull")
    await at.press("escape")


async def credential_wizard(at: Camera) -> None:
    """Each step of the wizard for a credential set."""
    await at.area("Credentials")
    await at.press("n")
    at.picture("wizard-credential-registry")
    await at.press("down", "down", "down", "enter")
    await at.type("env:GHCR_USER")
    await at.press("enter")
    await at.type("secret")
    at.picture("wizard-credential-secrets")
    await at.press("ctrl+u")
    await at.type("env:GHCR_TOKEN")
    await at.press("enter")
    at.picture("wizard-credential-review")
    await at.press("ctrl+c", "right", "enter")


IMPORTED = """\
[[rules]]
name = "hub-bitnami"
source_repository = "docker.io/bitnami/*"
target_repository = "bitnami/*"
credential_set = "hub-login"

[[rules]]
name = "quay-prometheus"
source_repository = "quay.io/prometheus/*"
target_repository = "prometheus/*"
freshness = "1 h"
"""


async def import_wizard(at: Camera) -> None:
    """A file of rules, and the plan for it."""
    # Named as from the user's own directory: a picture is of no machine in particular.
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        await asyncio.to_thread(Path("rules-of-the-team.toml").write_text, IMPORTED)
        await at.area("Rules")
        await at.press("i")
        await at.type("rules-of-the-team.toml")
        at.picture("wizard-import-file")
        await at.press("enter")
        at.picture("wizard-import-plan")
        await at.press("ctrl+c", "right", "enter")


async def take_readers(engine: Engine) -> None:
    """The screen of the readers, of whom some may read what others may not."""
    await engine.rules.create(
        RuleDraft("ghcr-acme-web", "ghcr.io/acme/web", "acme/web", readers=("@ops", "ci"))
    )
    await engine.readers.create_token("ci", lifetime="90 d", groups=("build",))
    await engine.readers.create_token("nightly", lifetime="10 d")
    async with camera(engine) as at:
        await at.area("Readers")
        at.picture("readers")


def reader_settings(root: Path) -> ReaderSettings:
    """A password file with two readers, and a group; blocks."""
    htpasswd = root / "readers.htpasswd"
    password = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(4)).decode()
    htpasswd.write_text(f"alice:{password}\nbob:{password}\n")
    htpasswd.chmod(0o600)
    return ReaderSettings(htpasswd, {"ops": ("alice", "bob")})


async def main() -> None:
    """Run the demo and take the pictures."""
    demo.set_secrets()
    with tempfile.TemporaryDirectory(prefix="e-") as root:
        async with served_on_loopback(demo_registry_app(speed=SPEED)) as port:
            declared = tuple(
                DeclaredRegistry(name, endpoint=f"http://127.0.0.1:{port}")
                for name in demo.REPLACED_LOGIN_SERVERS
            )
            settings = replace(Settings(), upstreams=declared)
            async with Engine.open(Directories.under(Path(root)), settings, demo=True) as engine:
                await demo.prepare(engine)
                await take(engine)
            with_readers = replace(
                settings, readers=await asyncio.to_thread(reader_settings, Path(root))
            )
            directories = Directories.under(Path(root) / "r")
            async with Engine.open(directories, with_readers, demo=True) as engine:
                await demo.prepare(engine)
                await take_readers(engine)


if __name__ == "__main__":
    asyncio.run(main())
