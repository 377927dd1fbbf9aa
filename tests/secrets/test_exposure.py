"""F71: which files with secrets are accepted, by their modes, their place and how they are mounted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.secrets import SecretUnavailable, read_secret
from entrepot.secrets.file import read_private_file
from tests.programs import run_in_mount_namespace

USER = 1234
"""A user without a name, as container engines choose them."""

ACCEPTED = [
    "systemd_credential",
    "systemd_credential_writable",
    "systemd_without_access_lists",
    "credentials_directory",
    "docker_secret",
    "podman_secret",
    "compose_directory",
    "kubernetes_secret",
    "kubernetes_with_group",
    "given_to_group",
    "sealed_directory",
    "own_home",
]

REFUSED = [
    ("open_home", "Run: chmod 600"),
    ("of_root_for_all", f"Let root run: chgrp {USER}"),
    ("of_another_user", "user 12345 owns it. Run: install -m 600"),
    ("given_to_other_group", "chmod 640"),
    ("replaceable", "others than its owner may use"),
    ("replaceable_credential", "others than its owner may use"),
    ("sealed_in_a_directory_of_another", "others than its owner may use"),
    ("by_a_link_from_a_sealed_directory", "others than its owner may use"),
]


def reading(case: str, directory: Path, user: int = USER) -> str:
    """What a user reads of a case of `tests.secrets.mounts`."""
    return run_in_mount_namespace("tests.secrets.mounts", case, directory, str(user))


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_secret_that_is_mounted_safely_is_read(case: str, open_directory: Path) -> None:
    assert reading(case, open_directory) == "hunter2"


@pytest.mark.parametrize(("case", "says"), REFUSED)
def test_a_secret_that_others_can_reach_is_refused_with_a_cure(
    case: str, says: str, open_directory: Path
) -> None:
    answer = reading(case, open_directory)
    assert says in answer
    assert "hunter2" not in answer


def test_every_case_of_a_mount_is_tried() -> None:
    from tests.secrets.mounts import CASES

    assert sorted(CASES) == sorted([*ACCEPTED, *(case for case, _ in REFUSED)])


@pytest.mark.parametrize(
    "case",
    [
        "kubernetes_secret",
        "docker_secret",
        "podman_secret",
        "compose_directory",
        "systemd_credential",
    ],
)
def test_root_reads_what_is_mounted_safely_too(case: str, open_directory: Path) -> None:
    assert reading(case, open_directory, 0) == "hunter2"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666, 0o444])
async def test_a_file_in_a_directory_that_lets_nobody_in_may_have_any_mode(
    open_directory: Path, mode: int
) -> None:
    path = open_directory / "closed" / "hub"
    path.parent.mkdir(mode=0o700)
    path.write_text("hunter2")
    path.chmod(mode)
    assert (
        await read_secret(SecretIdentifier.parse(f"file:{path}"), "docker.io")
    ).reveal() == "hunter2"
    path.parent.chmod(0o711)
    with pytest.raises(SecretUnavailable, match="others than its owner may use"):
        await read_secret(SecretIdentifier.parse(f"file:{path}"), "docker.io")


async def test_a_secret_that_kubernetes_rotates_is_read_at_once(tmp_path: Path) -> None:
    """A new directory, and ``..data`` is turned to it in one step."""
    for number in ("1", "2"):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "hub").write_text(f"hunter{number}")
        (tmp_path / f"..{number}" / "hub").chmod(0o600)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "hub").symlink_to("..data/hub")
    identifier = SecretIdentifier.parse(f"file:{tmp_path}/hub")
    assert (await read_secret(identifier, "docker.io")).reveal() == "hunter1"
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    assert (await read_secret(identifier, "docker.io")).reveal() == "hunter2"


def test_the_file_that_was_opened_is_judged_and_not_what_takes_its_place(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private file is put in the place of an open one between opening and judging."""
    path, private = open_directory / "hub", open_directory / "private"
    path.write_text("hunter2")
    path.chmod(0o644)
    private.touch(0o600)
    real = os.open

    def swapping(name: str, *arguments: int) -> int:
        descriptor = real(name, *arguments)
        if name == str(path) and private.exists():
            private.replace(path)
        return descriptor

    monkeypatch.setattr(os, "open", swapping)
    with pytest.raises(SecretUnavailable, match="mode 0644"):
        read_private_file(str(path), "file:x")
    assert not private.exists()


def test_a_secret_in_the_nix_store_is_refused_although_nobody_can_change_it(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (open_directory / "hub").write_text("hunter2")
    monkeypatch.setattr("entrepot.secrets.exposure.READABLE_STORES", (open_directory,))
    with pytest.raises(
        SecretUnavailable,
        match=r"a store that every user of this machine can read.*LoadCredential=",
    ):
        read_private_file(str(open_directory / "hub"), "file:x")


def test_no_chmod_is_advised_where_the_file_system_keeps_no_modes(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (open_directory / "hub").write_text("hunter2")
    (open_directory / "hub").chmod(0o644)
    monkeypatch.setattr(
        "entrepot.secrets.exposure.file_system", lambda path: "vfat on /media/stick"
    )
    with pytest.raises(
        SecretUnavailable, match=r"\(vfat\) keeps no modes: keep the secret on another one"
    ):
        read_private_file(str(open_directory / "hub"), "file:x")


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda path: None, "No such file or directory. Put the secret into"),
        (
            lambda path: path.symlink_to(path),
            "Too many levels of symbolic links. Put the secret into",
        ),
        (lambda path: path.write_text("hunter2"), "Permission denied. Let the engine's user, "),
    ],
)
def test_a_file_that_can_not_be_opened_gets_advice_that_fits(
    prepare: Callable[[Path], object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hub"
    prepare(path)
    if path.is_file():

        def refuse(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SecretUnavailable) as caught:
        read_private_file(str(path), "file:x")
    assert says in caught.value.message
    assert "chmod" not in caught.value.message
