"""The password file of readers: names and bcrypt hashes, as ``htpasswd -B`` writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from entrepot.core.reference import quoted
from entrepot.encoding import NotUtf8, decode_text
from entrepot.errors import EngineError

FILE_SIZE: Final = 4 * 1024 * 1024
"""The largest file that is read, in bytes: some 40,000 readers."""

MAX_COST: Final = 15
"""The highest cost of a hash: each step doubles the time, and 15 takes two seconds."""

_BCRYPT = re.compile(r"\$2[abxy]\$(?P<cost>[0-9]{2})\$[./A-Za-z0-9]{53}")
_NAME = re.compile(r"[^\s:\x00-\x1f\x7f][^:\x00-\x1f\x7f]{0,254}")
_WRITE: Final = "Write it with: htpasswd -B -C 10"


class HtpasswdInvalid(EngineError):
    """A password file can't be used. The message names file and line, and never a hash."""

    code = "ReadersInvalid"


def read_htpasswd(file: Path, *, may_be_empty: bool = True) -> Mapping[str, bytes]:
    """The hash of each reader's password, by name. Blocks; raises `HtpasswdInvalid`.

    Unless it *may be empty*, a file without a byte is refused: it may be about to be written.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_SIZE + 1)
    except OSError as error:
        raise HtpasswdInvalid(
            f"The readers in {file} can't be read: {error.strerror}.",
            f"Put the file there (htpasswd -c -B -C 10 {file} NAME), let the engine's user read "
            "it, or correct htpasswd below [readers] in settings.toml.",
        ) from None
    if not content and not may_be_empty:
        raise HtpasswdInvalid(
            f"{file} is empty.",
            "Write a comment (#) into it if nobody is to sign in with a password.",
        )
    if len(content) > FILE_SIZE:
        raise HtpasswdInvalid(f"{file} has more than {FILE_SIZE:,} bytes.", "Is it the right file?")
    try:
        text = decode_text(content)
    except NotUtf8 as error:
        raise HtpasswdInvalid(f"{file}: {error.sentence}", "Save it as UTF-8.") from None
    hashes: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        name, colon, password_hash = entry.partition(":")
        place = f"{file}, line {number}"
        if not colon or _NAME.fullmatch(name) is None:
            raise HtpasswdInvalid(f"{place}: it is not NAME:HASH.", f"{_WRITE} {file} NAME")
        bcrypt = _BCRYPT.fullmatch(password_hash)
        if bcrypt is None:
            raise HtpasswdInvalid(
                f"{place}: the password of {quoted(name)} is not hashed with bcrypt.",
                f"{_WRITE} {file} NAME",
            )
        if not 4 <= int(bcrypt["cost"]) <= MAX_COST:
            raise HtpasswdInvalid(
                f"{place}: the bcrypt cost of {quoted(name)} is {int(bcrypt['cost'])}, and 4 to "
                f"{MAX_COST} are possible.",
                f"{_WRITE} {file} NAME",
            )
        if name in hashes:
            raise HtpasswdInvalid(
                f"{place}: {quoted(name)} is there a second time.", "Remove one of the two lines."
            )
        hashes[name] = password_hash.encode()
    return hashes
