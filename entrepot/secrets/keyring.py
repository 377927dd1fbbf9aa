"""Read secrets from the system's keyring, with the library ``keyring``.

On Linux the usual keyring is a D-Bus service, which may never answer: a server has no desktop
session that could unlock it. So it is asked in a thread of its own, for a bounded time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading

from entrepot.causes import Cause, CauseCode
from entrepot.secrets.secret import SecretUnavailable, unreadable

KEYRING_TIMEOUT = 10.0
"""How long a keyring may take to answer, in seconds."""

_pending: dict[tuple[str, str], concurrent.futures.Future[str | None]] = {}
"""Entries without an answer yet, by service and user.

One that hangs is not requested again: that would hold one more thread each time.
"""


async def read_keyring(service: str, user: str, identifier: object) -> str:
    """The password of an entry; raises `SecretUnavailable`."""
    password = _pending.get((service, user)) or _request_password(service, user)
    try:
        async with asyncio.timeout(KEYRING_TIMEOUT):
            value = await asyncio.shield(asyncio.wrap_future(password))
    except TimeoutError:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: the keyring has not answered for "
            f"{KEYRING_TIMEOUT:.0f} s.",
            "It may be locked and wait for its password. On a server, choose another backend with "
            "PYTHON_KEYRING_BACKEND, or keep the secret in a file.",
        ) from None
    except Exception as error:
        raise _failure(error, identifier) from None
    if value is None:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: the keyring has no entry for user {user} of "
            f"service {service}.",
            f"Create one, as the user of the engine: keyring set {service} {user}",
        )
    if not value:
        raise SecretUnavailable(
            f"The secret {identifier} can't be used: the entry of the keyring is empty.",
            f"Set it: keyring set {service} {user}",
        )
    return value


def _request_password(service: str, user: str) -> concurrent.futures.Future[str | None]:
    password: concurrent.futures.Future[str | None] = concurrent.futures.Future()
    _pending[service, user] = password

    def run() -> None:
        try:
            # The import takes a tenth of a second: it looks for backends.
            import keyring
            from keyring.backends import fail, null

            backend = keyring.get_keyring()
            if isinstance(backend, fail.Keyring | null.Keyring):
                raise _NoBackend
            value = backend.get_password(service, user)
        except BaseException as error:
            _pending.pop((service, user), None)
            password.set_exception(error)
        else:
            _pending.pop((service, user), None)
            password.set_result(value)

    # A daemon thread: one that hangs does not keep the process from ending.
    threading.Thread(target=run, name="entrepot-keyring", daemon=True).start()
    return password


class _NoBackend(Exception):
    """This machine has no keyring that could store anything."""


def _no_keyring() -> Cause:
    desktop = (
        ""
        if os.environ.get("DBUS_SESSION_BUS_ADDRESS")
        else ": it has no D-Bus session, which the keyring of a desktop needs"
    )
    return Cause(
        CauseCode.KEYRING_MISSING,
        f"There is no keyring for the engine{desktop}.",
        "Install a backend and choose it with PYTHON_KEYRING_BACKEND or keyringrc.cfg, or keep the "
        "secret in a file (file:/path).",
    )


def _failure(error: Exception, identifier: object) -> SecretUnavailable:
    from keyring.errors import KeyringLocked, NoKeyringError

    if isinstance(error, _NoBackend | NoKeyringError):
        return unreadable(identifier, _no_keyring())
    if isinstance(error, KeyringLocked):
        return SecretUnavailable(
            f"The secret {identifier} can't be read: the keyring is locked.",
            "Unlock it for the user of the engine.",
        )
    # The message of a backend may repeat the request or the secret: only the kind is shown.
    return SecretUnavailable(
        f"The secret {identifier} can't be read: the keyring fails ({type(error).__name__}).",
        "Try by hand, as the user of the engine: keyring get SERVICE USER",
    )
