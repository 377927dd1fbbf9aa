"""Programs that print secrets, and credential sets that use them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from entrepot.core.credentials import CredentialSet
from entrepot.core.secret_identifiers import SecretIdentifier

Script = Callable[[str, str], Path]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Writes a shell script of a name, which is found in the PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")

    def write(name: str, body: str) -> Path:
        path = programs / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return write


def set_of(username: str, password: str, login_server: str = "docker.io") -> CredentialSet:
    return CredentialSet(
        "hub-login",
        login_server,
        SecretIdentifier.parse(username),
        SecretIdentifier.parse(password),
        datetime.now(UTC),
    )
