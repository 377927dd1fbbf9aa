"""Read secrets from files."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from pathlib import Path

from entrepot.secrets.exposure import find_exposure
from entrepot.secrets.secret import SECRET_LENGTH, SecretUnavailable, decoded

_ONE_SECRET = "Give the path of a file that holds the secret and nothing else."


def read_private_file(path: str, identifier: object, *, limit: int = SECRET_LENGTH) -> bytes:
    """Read a file that no other user can read or change (F71).

    At most *limit* + 1 bytes. Links are followed at each reading, so that a secret which Kubernetes
    rotates by its link ``..data`` counts at once. Blocks; raises `SecretUnavailable`.
    """
    try:
        # Without O_NONBLOCK, to open a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {error.strerror}.", _unopened_hint(path, error)
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SecretUnavailable(
                f"The secret {identifier} can't be read: {path} is not a file.", _ONE_SECRET
            )
        if (exposure := find_exposure(descriptor, path)) is not None:
            raise SecretUnavailable(
                f"The secret {identifier} is not read: {exposure.reason}.", exposure.hint
            )
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(limit + 1)
    except OSError as error:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {error.strerror}.",
            f"Look at the file system that holds {path}.",
        ) from None
    finally:
        os.close(descriptor)


def read_token(path: Path) -> str:
    """Read a token of the management API from a private file.

    Without blanks around it; it may be empty. Blocks; raises `SecretUnavailable`.
    """
    identifier = f"file:{path}"
    return decoded(
        read_private_file(str(path), identifier), identifier, str(path), may_be_empty=True
    ).strip()


def _unopened_hint(path: str, error: OSError) -> str:
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
        return f"Put the secret into {path}, for the engine's user alone."
    if error.errno in {errno.EACCES, errno.EPERM}:
        return (
            f"Let the engine's user, {_own_name()}, read {path}, and enter each directory on the "
            "way to it."
        )
    return f"Look at the file system that holds {path}."


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"number {os.geteuid()}"
