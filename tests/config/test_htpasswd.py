"""The password file of readers."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrepot.config.htpasswd import FILE_SIZE, HtpasswdInvalid, read_htpasswd

HASH = "$2y$05$" + "a" * 53


def test_names_and_hashes_are_read_as_htpasswd_writes_them(tmp_path: Path) -> None:
    file = tmp_path / "readers"
    file.write_bytes(f"# Readers\r\n\r\nalice:{HASH}\r\nä b:{HASH.replace('y', 'b')}\n".encode())
    assert read_htpasswd(file) == {
        "alice": HASH.encode(),
        "ä b": HASH.replace("y", "b").encode(),
    }


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("alice", "NAME:HASH"),
        (f":{HASH}", "NAME:HASH"),
        ("alice:secret", "not hashed with bcrypt"),
        ("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "not hashed with bcrypt"),
        ("alice:$apr1$salt$hash", "not hashed with bcrypt"),
        (f"alice:{HASH}x", "not hashed with bcrypt"),
        (f"alice:{HASH.replace('$05', '$31')}", "cost"),
        (f"alice:{HASH.replace('$05', '$03')}", "cost"),
        (f"bob:{HASH}", "second time"),
    ],
)
def test_a_line_that_can_not_be_used_is_named_without_its_hash(
    tmp_path: Path, line: str, what: str
) -> None:
    file = tmp_path / "readers"
    file.write_text(f"bob:{HASH}\n{line}\n")
    with pytest.raises(HtpasswdInvalid) as raised:
        read_htpasswd(file)
    assert f"{file}, line 2: " in raised.value.message
    assert what in raised.value.message
    secret = line.partition(":")[2]
    assert not secret or secret not in raised.value.message


def test_a_file_that_is_not_there_leads_to_its_creation(tmp_path: Path) -> None:
    with pytest.raises(HtpasswdInvalid, match="htpasswd -c -B -C 10 "):
        read_htpasswd(tmp_path / "none")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "readers"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(HtpasswdInvalid, match="UTF-16"):
        read_htpasswd(file)
    file.write_bytes(b"#" * (FILE_SIZE + 1))
    with pytest.raises(HtpasswdInvalid, match="right file"):
        read_htpasswd(file)
