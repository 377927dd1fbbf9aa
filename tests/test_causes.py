"""What of this machine is at fault: disks, rights and programs, each brought about for real."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from entrepot.causes import CauseCode, Fault, at_fault, disk_cause, program_cause
from tests.programs import require_program, require_root

PROBE = """
import json, os, sys
from pathlib import Path
from entrepot.causes import disk_cause
from entrepot.engine.health import probe_disk

place = Path(sys.argv[1])
{change}
try:
    probe_disk(place)
    Path(place, "other").write_bytes(b"x" * 4096)
except OSError as error:
    cause = disk_cause(error, place, "tmpfs on /srv")
    print(json.dumps([cause.code, cause.what, cause.hint]))
"""

USER = 54321
"""A user that no machine has."""


def probed(place: Path, *prefix: str, change: str = "") -> list[str]:
    """What a process of its own, begun with *prefix*, finds wrong with a directory."""
    command = [*prefix, sys.executable, "-c", PROBE.format(change=change), str(place)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 0, process.stderr
    cause: list[str] = json.loads(process.stdout)
    return cause


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that every user can go to."""
    require_root("another user's directory")
    root = tmp_path_factory.mktemp("data")
    for directory in (root, *root.parents):
        if directory.stat().st_uid == os.getuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)
    return root


def test_a_data_directory_that_root_made_names_both_users_and_the_cure(place: Path) -> None:
    place.chmod(0o755)
    code, what, hint = probed(place, change=f"os.setgid({USER}); os.setuid({USER})")
    assert code == "permission"
    assert (
        what
        == f"{place} belongs to user root, and the engine runs as user {USER}, who may not write there."
    )
    assert hint == f"Give it to the engine's user, as root: chown -R {USER}:{USER} {place}"


def test_a_data_directory_with_a_mode_that_forbids_writing_names_the_mode(place: Path) -> None:
    os.chown(place, USER, USER)
    place.chmod(0o555)
    code, what, hint = probed(place, change=f"os.setgid({USER}); os.setuid({USER})")
    assert (code, f"has mode 0555, in which user {USER}, its owner, may not write it" in what) == (
        "permission",
        True,
    )
    assert hint == f"Allow it: chmod u+rwx {place}"


def test_one_file_of_another_user_in_the_data_directory_is_named(place: Path) -> None:
    (place / "probe").write_bytes(b"")
    os.chown(place, USER, USER)
    code, what, _ = probed(place, change=f"os.setgid({USER}); os.setuid({USER})")
    assert (code, what.startswith(f"{place / 'probe'} belongs to user root")) == (
        "permission",
        True,
    )


def test_a_directory_deep_below_that_root_made_names_all_data_in_the_cure(place: Path) -> None:
    """An engine that root ran once created some of the directories of the blobs."""
    deep = place / "blobs" / "sha256" / "1d"
    deep.mkdir(parents=True)
    for directory in (place, place / "blobs", place / "blobs" / "sha256"):
        os.chown(directory, USER, USER)
    write = "probe_disk = lambda place: (place / 'blobs/sha256/1d/new').write_bytes(b'')"
    change = f"os.setgid({USER}); os.setuid({USER}); {write}"
    code, what, hint = probed(place, change=change)
    assert (code, what.startswith(f"{deep} belongs to user root")) == ("permission", True)
    assert hint == f"Give it to the engine's user, as root: chown -R {USER}:{USER} {place}"


def test_a_directory_above_that_can_not_be_passed_is_named(place: Path) -> None:
    inner = place / "closed" / "data"
    inner.mkdir(parents=True)
    (place / "closed").chmod(0o700)
    code, what, hint = probed(inner, change=f"os.setgid({USER}); os.setuid({USER})")
    assert (code, what.startswith(f"{place / 'closed'} belongs to user root")) == (
        "permission",
        True,
    )
    assert hint == f"Let that user pass it, as root: chmod o+x {place / 'closed'}"


def test_the_cure_for_a_missing_directory_changes_no_owner_of_its_parents(place: Path) -> None:
    """``chown -R`` of a directory like ``/var/lib`` would take it from everybody else."""
    place.chmod(0o755)
    data = place / "entrepot"
    change = f"os.setgid({USER}); os.setuid({USER}); probe_disk = Path.mkdir"
    code, what, hint = probed(data, change=change)
    assert (code, what.startswith(f"{place} belongs to user root")) == ("permission", True)
    assert hint == f"Create the directory, as root: install -d -m 700 -o {USER} -g {USER} {data}"


def mounted(place: Path, options: str, then: str = "") -> list[str]:
    unshare, mount = str(require_program("unshare")), str(require_program("mount"))
    script = f'{mount} -t tmpfs -o {options} tmpfs {place} && {then or "true"} && exec "$@"'
    return probed(place, unshare, "-m", "sh", "-c", script, "sh")


def test_for_a_read_only_file_system_no_other_mode_is_advised(
    place: Path,
) -> None:
    code, what, hint = mounted(place, "ro")
    assert (code, what) == (
        "file-system-read-only",
        f"The file system of {place} (tmpfs on /srv) is read-only.",
    )
    assert hint == "Mount it for writing, or set XDG_DATA_HOME to a directory that can be written."
    assert "chmod" not in hint


def test_a_full_file_system(place: Path) -> None:
    code, what, _ = mounted(place, "size=64k", f"head -c 64k /dev/zero > {place}/fill")
    assert (code, what) == ("disk-full", f"The file system of {place} (tmpfs on /srv) is full.")


def test_a_file_system_without_inodes_is_distinguished_from_a_full_one(place: Path) -> None:
    code, what, hint = mounted(place, "size=1m,nr_inodes=2", f"touch {place}/a")
    assert (code, "No inode is left" in what, "df -i" in hint) == ("inodes", True, True)


@pytest.mark.parametrize(
    ("number", "code", "hint"),
    [
        (errno.EDQUOT, CauseCode.QUOTA, "quota"),
        (errno.EIO, CauseCode.DISK_FAILS, "dmesg"),
        (errno.ESTALE, CauseCode.DISK_FAILS, "ext4 on /srv"),
        (errno.EMFILE, CauseCode.OPEN_FILES, "LimitNOFILE"),
        (errno.ENOMEM, CauseCode.MEMORY, "memory limit"),
    ],
)
def test_what_a_test_can_not_bring_about(
    tmp_path: Path, number: int, code: CauseCode, hint: str
) -> None:
    cause = disk_cause(OSError(number, os.strerror(number)), tmp_path, "ext4 on /srv")
    assert (cause.code, hint in cause.hint, cause.fault) == (code, True, Fault.MACHINE)


def test_a_refusal_in_spite_of_owner_and_mode_is_no_matter_of_chmod(tmp_path: Path) -> None:
    """A cure that has no effect is none: chattr +i and security modules refuse root too."""
    tmp_path.chmod(0o700)
    cause = disk_cause(
        PermissionError(errno.EPERM, "Operation not permitted"), tmp_path, "ext4 on /"
    )
    assert (cause.code, "chmod" in cause.hint, "lsattr" in cause.hint) == (
        CauseCode.PERMISSION,
        False,
        True,
    )


# Programs


def started(program: Path | str) -> OSError:
    with pytest.raises(OSError) as raised:  # noqa: PT011 - which one it is, is what is asked
        subprocess.run([program], check=False)
    return raised.value


def test_a_program_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere:/elsewhere")
    cause = program_cause(started("docker-credential-none"), "docker-credential-none")
    assert cause.code is CauseCode.PROGRAM_MISSING
    assert (
        cause.what
        == "The program docker-credential-none is in no directory of PATH (/nowhere:/elsewhere)."
    )
    assert cause.hint == "Install it, or add its directory to PATH where the engine is started."


def test_a_program_of_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The head of an ELF file for no machine at all.
    program = tmp_path / "docker-credential-far"
    program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xff\xfe" + bytes(100))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    cause = program_cause(started(program.name), program.name)
    assert cause.code is CauseCode.PROGRAM_WRONG_ARCHITECTURE
    assert (
        cause.what
        == f"{program} is not a program that this machine ({os.uname().machine}) can run."
    )


def test_a_program_without_the_right_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker-credential-mode"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o644)
    monkeypatch.setenv("PATH", str(tmp_path))
    cause = program_cause(started(program.name), program.name)
    assert (cause.code, str(program) in cause.what, "chmod a+rx" in cause.hint) == (
        CauseCode.PROGRAM_NOT_EXECUTABLE,
        True,
        True,
    )


def test_a_script_whose_interpreter_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker-credential-script"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    cause = program_cause(started(program.name), program.name)
    assert (cause.code, "not the interpreter" in cause.what) == (CauseCode.PROGRAM_MISSING, True)


def test_what_is_wrong_with_this_machine_is_never_the_sources_fault() -> None:
    own = [
        each
        for each in CauseCode
        if each.value.startswith(
            (
                "program",
                "disk",
                "inodes",
                "quota",
                "permission",
                "file",
                "no-locks",
                "open",
                "clock",
            )
        )
    ]
    assert {at_fault(each) for each in own} == {Fault.MACHINE}
