"""A secret that is rotated is picked up without a restart, wherever it is kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import keyring
import pytest

from entrepot.config.settings import Settings
from entrepot.core.reference import Repository, Tag
from entrepot.core.registries import SourceRegistry
from entrepot.core.states import SignIn
from entrepot.source.sources import Sources
from tests.conftest import Clock
from tests.fakes import FakeRegistry, TokenSignIn
from tests.secrets.conftest import Script, set_of
from tests.secrets.test_keyring import MemoryKeyring

Keep = Callable[[str], None]
IDENTIFIERS = [
    "env:EXAMPLE_PASSWORD",
    "file:{root}/password",
    "keyring:entrepot/hub",
    "docker-config:password",
    "docker-helper:test/password",
    "command:{root}/run",
]


@pytest.fixture
def keep(tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keep]:
    """Puts a password into every store."""
    monkeypatch.setenv("EXAMPLE_USER", "ann")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    program = script(
        "docker-credential-test",
        f'printf \'{{"Username": "ann", "Secret": "%s"}}\' "$(cat {tmp_path}/password)"',
    )
    (tmp_path / "run").write_text(f"#!/bin/sh\ncat {tmp_path}/password\n")
    for path in (program, tmp_path / "run"):
        path.chmod(0o755)
    memory_keyring = MemoryKeyring()

    def keep(password: str) -> None:
        monkeypatch.setenv("EXAMPLE_PASSWORD", password)
        memory_keyring.set_password("entrepot", "hub", password)
        auth = base64.b64encode(f"ann:{password}".encode()).decode()
        for name, content in (
            ("password", password),
            ("config.json", json.dumps({"auths": {"docker.io": {"auth": auth}}})),
        ):
            (tmp_path / name).write_text(content)
            (tmp_path / name).chmod(0o600)

    before = keyring.get_keyring()
    keyring.set_keyring(memory_keyring)
    yield keep
    keyring.set_keyring(before)


@pytest.mark.parametrize("how", ["refused", "expired"])
@pytest.mark.parametrize("identifier", IDENTIFIERS)
async def test_a_rotated_password_is_used_when_the_token_is_refused_or_has_expired(
    identifier: str, how: str, keep: Keep, tmp_path: Path
) -> None:
    clock = Clock()
    sign_in = TokenSignIn({"ann": "one"}, anonymous=False)
    keep("one")
    async with (
        FakeRegistry(sign_in) as source,
        Sources(Settings(), clock=clock, wall_clock=clock) as sources,
    ):
        source.add_image("library/nginx", "1")
        client = sources.client(
            SourceRegistry("Stand-in", "docker.io", SignIn.OPTIONAL, source.url, True),
            set_of("env:EXAMPLE_USER", identifier.format(root=tmp_path)),
        )
        await client.head_manifest(Repository("library/nginx"), Tag("1"))
        sign_in.users["ann"] = "two"
        keep("two")
        if how == "refused":
            sign_in.revoke_tokens()
        else:
            clock.now += 1000
        await client.head_manifest(Repository("library/nginx"), Tag("1"))
        assert source.count("GET", "/token") == 2
