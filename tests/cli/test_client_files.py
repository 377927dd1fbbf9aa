"""Installing the configuration of container clients, and taking it away."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from entrepot.cli.client_files import (
    BACKUP,
    ClientFileUnusable,
    apply,
    difference,
    plan_installation,
    plan_removal,
)
from entrepot.core.mirror_configuration.clients import KINDS, Client, configure
from entrepot.core.mirror_configuration.files import BEGIN, ClientFileConflict
from entrepot.core.mirror_configuration.setup import Credentials, Endpoint, MirroredRule, Setup

HUB = MirroredRule.of("hub-library", "docker.io/library/*", "hub/*")
QUAY = MirroredRule.of("quay-all", "quay.io/*", "quay/*")
SETUP = Setup(Endpoint("127.0.0.1:5000"), (HUB, QUAY), {"docker.io": Endpoint("127.0.0.1:5002")})
ENCRYPTED = Setup(
    Endpoint("cache.example:5000", has_tls=True),
    (HUB,),
    {"docker.io": Endpoint("cache.example:5002", has_tls=True)},
    authorities="/etc/ssl/ca.pem",
    authorities_text="-----BEGIN CERTIFICATE-----\n",
)

EXISTING = {
    Client.CONTAINERD: ("docker.io/hosts.toml", '[host."https://building.example"]\n'),
    Client.DOCKER: ("daemon.json", '{"debug": true, "registry-mirrors": ["https://a.example"]}'),
    Client.BUILDKIT: ("buildkitd.toml", "debug = true"),
    Client.K3S: ("registries.yaml", "mirrors:\n  gcr.io:\n    endpoint: [https://a.example]\n"),
    Client.PODMAN: ("00-site.conf", 'unqualified-search-registries = ["docker.io"]\n'),
    Client.CRIO: ("00-site.conf", 'unqualified-search-registries = ["docker.io"]\n'),
}


def place_of(client: Client, directory: Path) -> str:
    """The directory or file of a client, below *directory*."""
    return str(directory if KINDS[client].is_directory else directory / EXISTING[client][0])


def tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()
    }


def install(client: Client, setup: Setup, place: str) -> str:
    changes = plan_installation(configure(client, setup, place), place)
    apply(changes)
    return difference(changes)


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    directory = tmp_path / "etc" / "client"
    directory.mkdir(parents=True)
    return directory


@pytest.mark.parametrize("setup", [SETUP, ENCRYPTED], ids=["plain", "tls"])
@pytest.mark.parametrize("client", list(Client))
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "existing"])
def test_what_was_installed_goes_exactly(
    client: Client, setup: Setup, is_new: bool, etc: Path
) -> None:
    name, text = EXISTING[client]
    if not is_new:
        (etc / name).parent.mkdir(exist_ok=True)
        (etc / name).write_text(text)
    before = tree(etc.parent)
    place = place_of(client, etc)
    assert "+" in install(client, setup, place)
    assert tree(etc.parent) != before
    assert install(client, setup, place) == ""
    changes = plan_removal(client, place)
    apply(changes)
    assert tree(etc.parent) == before
    assert plan_removal(client, place) == []


@pytest.mark.parametrize("client", list(Client))
def test_what_was_installed_before_is_replaced(client: Client, etc: Path) -> None:
    place = place_of(client, etc)
    install(client, SETUP, place)
    other = replace(
        ENCRYPTED,
        registry=Endpoint("other.example:5000", has_tls=True),
        mirrors={"docker.io": Endpoint("other.example:5002", has_tls=True)},
    )
    install(client, other, place)
    written = "".join(tree(etc.parent).values())
    assert "other.example" in written
    assert "127.0.0.1" not in written
    assert "quay.io" not in written


def test_a_later_change_of_others_stays(etc: Path) -> None:
    place = place_of(Client.DOCKER, etc)
    Path(place).write_text('{"debug": true}')
    install(Client.DOCKER, SETUP, place)
    document = json.loads(Path(place).read_text())
    document["registry-mirrors"].append("https://later.example")
    document["debug"] = False
    Path(place).write_text(json.dumps(document))
    apply(plan_removal(Client.DOCKER, place))
    assert json.loads(Path(place).read_text()) == {
        "debug": False,
        "registry-mirrors": ["https://later.example"],
    }
    assert list(etc.iterdir()) == [Path(place)]


def test_the_same_mirror_of_somebody_else_stays(etc: Path) -> None:
    place = place_of(Client.DOCKER, etc)
    text = '{"registry-mirrors": ["http://127.0.0.1:5002"]}'
    Path(place).write_text(text)
    install(Client.DOCKER, SETUP, place)
    apply(plan_removal(Client.DOCKER, place))
    assert tree(etc) == {"daemon.json": text}


def test_a_copy_of_the_file_before_is_kept(etc: Path) -> None:
    name, text = EXISTING[Client.BUILDKIT]
    (etc / name).write_text(text)
    for setup in (SETUP, ENCRYPTED):
        install(Client.BUILDKIT, setup, place_of(Client.BUILDKIT, etc))
        assert (etc / f"{name}{BACKUP}").read_text() == text


def test_modes(etc: Path) -> None:
    """The mode of a file stays; a new file is for all, and with a password for its owner."""
    place = place_of(Client.K3S, etc)
    install(Client.K3S, SETUP, place)
    assert stat.S_IMODE(Path(place).stat().st_mode) == 0o644
    Path(place).chmod(0o640)
    install(Client.K3S, ENCRYPTED, place)
    assert stat.S_IMODE(Path(place).stat().st_mode) == 0o640
    install(Client.K3S, replace(SETUP, credentials=Credentials("node", "secret")), place)
    assert stat.S_IMODE(Path(place).stat().st_mode) == 0o600


@pytest.mark.parametrize("client", [Client.CONTAINERD, Client.K3S])
def test_a_diff_has_no_passwords(client: Client, etc: Path) -> None:
    place = place_of(client, etc)
    setup = replace(ENCRYPTED, credentials=Credentials("node", "secret"))
    shown = install(client, setup, place) + install(client, ENCRYPTED, place)
    assert "***" in shown
    assert "secret" not in shown
    assert "bm9kZTpzZWNyZXQ" not in shown


def test_a_drop_in_of_somebody_else_stays(etc: Path) -> None:
    file = etc / "50-entrepot-mirror.conf"
    file.write_text("# mine\n")
    with pytest.raises(ClientFileConflict, match="did not write it"):
        install(Client.PODMAN, SETUP, str(etc))
    assert plan_removal(Client.PODMAN, str(etc)) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "is not UTF-8 text"), (b"#" * (1 << 20) + b"#", "larger than 1 MB")],
)
def test_what_is_no_text(content: bytes, message: str, etc: Path) -> None:
    Path(place_of(Client.K3S, etc)).write_bytes(content)
    with pytest.raises(ClientFileUnusable, match=message):
        install(Client.K3S, SETUP, place_of(Client.K3S, etc))


def test_a_file_that_can_not_be_written(etc: Path) -> None:
    (etc / "file").touch()
    with pytest.raises(ClientFileUnusable, match="can't be written: "):
        install(Client.CONTAINERD, SETUP, str(etc / "file"))


def test_without_permission_the_message_says_how_to_get_it(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("entrepot.cli.client_files.replace_file", refuse)
    place = place_of(Client.BUILDKIT, etc)
    changes = plan_installation(configure(Client.BUILDKIT, SETUP, place), place)
    with pytest.raises(ClientFileUnusable, match=r"Permission denied\. Run it as root"):
        apply(changes, hint="Run it as root: sudo")
    assert list(etc.iterdir()) == []


def test_a_damaged_file_is_not_undone(etc: Path) -> None:
    place = place_of(Client.DOCKER, etc)
    install(Client.DOCKER, SETUP, place)
    Path(place).write_text("{")
    with pytest.raises(ClientFileUnusable, match="not valid JSON"):
        plan_removal(Client.DOCKER, place)


def test_line_ends_of_another_system_stay(etc: Path) -> None:
    place = place_of(Client.BUILDKIT, etc)
    Path(place).write_bytes(b"debug = true\r\n")
    install(Client.BUILDKIT, SETUP, place)
    assert BEGIN.encode() in Path(place).read_bytes()
    apply(plan_removal(Client.BUILDKIT, place))
    assert Path(place).read_bytes() == b"debug = true\r\n"
