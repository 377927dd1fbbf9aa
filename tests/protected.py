"""Configuration that can't be written, as package managers, orchestrators and administrators make
it: run with ``unshare --mount``, as root.

``python -m tests.protected CASE DIRECTORY`` lays out a case of `CASES` below a directory, opens the
documents there as its user does, tries to make a rule and a credential set, and prints what became
of it as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from entrepot.config.directories import Directories
from entrepot.config.documents import Documents
from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.registries import SourceRegistries
from entrepot.core.rules import RuleDraft
from entrepot.errors import EntrepotError

USER = 1234

RULES = """\
[[rules]]
name = "hub-app"
source_repository = "ghcr.io/acme/app"
target_repository = "app"
created = 2026-11-02T10:00:00Z
"""

CREDENTIALS = """\
[[credential_sets]]
name = "hub-login"
login_server = "docker.io"
username_id = "env:HUB_USER"
password_id = "env:HUB_PASSWORD"
created = 2026-11-02T10:00:00Z
"""


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)


def read_only(directory: Path) -> None:
    mount("--bind", directory, directory)
    mount("-o", "remount,bind,ro", directory)


def filled(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "rules.toml").write_text(RULES)
    (directory / "credentials.toml").write_text(CREDENTIALS)
    return directory


def linked(config: Path, directory: str | Path) -> None:
    config.mkdir(parents=True, exist_ok=True)
    for name in ("rules.toml", "credentials.toml"):
        (config / name).symlink_to(Path(directory) / name)


def store(config: Path) -> int:
    """Links into a read-only store from a directory that can be written, as home-manager makes
    them."""
    place = filled(config.parent / "store")
    linked(config, place)
    read_only(place)
    return 0


def config_map(config: Path) -> int:
    """Kubernetes: the whole directory is a read-only volume, and each file a link through
    ``..data``."""
    filled(config / "..2026_11_30")
    (config / "..data").symlink_to("..2026_11_30")
    linked(config, "..data")
    read_only(config)
    return 0


def mounted_alone(config: Path) -> int:
    """``-v ./rules.toml:/config/rules.toml``: nothing can take the place of a mount point."""
    filled(config)
    for name in ("rules.toml", "credentials.toml"):
        mount("--bind", config / name, config / name)
    return 0


def immutable(config: Path) -> int:
    """``chattr +i``, which holds for root too."""
    filled(config)
    for name in ("rules.toml", "credentials.toml"):
        subprocess.run(["chattr", "+i", config / name], check=True)
    return 0


def of_root(config: Path) -> int:
    """root's files in the user's directory: the user could put others in their place, and is not
    meant to."""
    filled(config)
    os.chown(config, USER, USER)
    return USER


def directory_of_root(config: Path) -> int:
    """The user's files in root's directory."""
    for path in filled(config).iterdir():
        os.chown(path, USER, USER)
    return USER


def write_protected(config: Path) -> int:
    """The user's own files, which are to stay as they are."""
    for path in (config, *filled(config).iterdir()):
        os.chown(path, USER, USER)
        if path != config:
            path.chmod(0o444)
    return USER


def no_directory(config: Path) -> int:
    """A user without a home: the directory can't be created."""
    return USER


def read_only_home(config: Path) -> int:
    """The directory can't be created, on a read-only file system."""
    config.parent.mkdir(parents=True, exist_ok=True)
    read_only(config.parent)
    return 0


CASES = {
    each.__name__: each
    for each in (
        store,
        config_map,
        mounted_alone,
        immutable,
        of_root,
        directory_of_root,
        write_protected,
        no_directory,
        read_only_home,
    )
}


def contents(config: Path) -> list[tuple[str, bytes, bool]]:
    return sorted(
        (str(path), path.read_bytes(), path.is_symlink())
        for path in config.rglob("*")
        if path.is_file()
    )


async def try_out(config: Path, root: Path, user: int) -> dict[str, object]:
    """What becomes of changes, and what is in force and on the disk afterwards."""
    # The Python of this test may be in a directory that the user can't enter: what a thread needs
    # of it is imported before.
    await asyncio.to_thread(os.getpid)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    directories = Directories(config, root / "d", root / "r", root / "l")
    directories.make()
    documents = Documents(directories, SourceRegistries())
    await documents.load()
    before = contents(config)
    refusals = []
    for change in (
        documents.create_rule(RuleDraft("ghcr-api", "ghcr.io/acme/api", "acme/api")),
        documents.create_credential_set(
            CredentialSetDraft("ghcr-login", "ghcr.io", "env:USER", "env:PASSWORD")
        ),
    ):
        try:
            await change
        except EntrepotError as error:
            refusals.append([error.code, error.status, error.message])
    return {
        "refusals": refusals,
        "rules": [rule.name for rule in documents.rules],
        "sets": [each.name for each in documents.credential_sets],
        "edited": await documents.edited(),
        "same": before == contents(config),
    }


def main(case: str, root: str) -> None:
    """See above."""
    config = Path(root) / "config" / "entrepot"
    for name in "drl":
        (Path(root) / name).mkdir(mode=0o700)
    user = CASES[case](config)
    for name in "drl":
        os.chown(Path(root) / name, user, user)
    sys.stdout.write(json.dumps(asyncio.run(try_out(config, Path(root), user))))


if __name__ == "__main__":
    main(*sys.argv[1:])
