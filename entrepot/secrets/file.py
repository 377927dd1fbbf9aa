"""Secrets in files."""

from __future__ import annotations

import os
import shlex
import stat

from entrepot.secrets.secret import SECRET_LENGTH, SecretUnavailable

_ONE_SECRET = "Give the path of a file that holds the secret and nothing else."


def read_private_file(path: str, identifier: object) -> bytes:
    """The content of a file that only its owner may use, one byte more than a secret may have at most. Blocks; raises `SecretUnavailable`."""
    try:
        # Without O_NONBLOCK the opening of a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {error.strerror}.", f"Put the secret into {path}, and let the engine's user read it (chmod 600)."
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SecretUnavailable(f"The secret {identifier} can't be read: {path} is not a file.", _ONE_SECRET)
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise SecretUnavailable(
                f"The secret {identifier} is not read: others than its owner may use {path} (mode {mode:04o}).", f"Run: chmod 600 {shlex.quote(path)}"
            )
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(SECRET_LENGTH + 1)
    except OSError as error:
        raise SecretUnavailable(f"The secret {identifier} can't be read: {error.strerror}.", f"Look at the file system that holds {path}.") from None
    finally:
        os.close(descriptor)
