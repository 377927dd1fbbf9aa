"""Secrets in the keyring of the system, through the library of that name.

On Linux the usual keyring is reached over D-Bus, where nobody may answer: a server has no desktop
session that could unlock it. So it is asked in a thread of its own, for a bounded time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading

from entrepot.causes import Cause, CauseCode
from entrepot.secrets.secret import SecretUnavailable, unreadable

PATIENCE = 10.0
"""Seconds that a keyring may take."""

_asking: dict[tuple[str, str], concurrent.futures.Future[str | None]] = {}
"""Entries that were asked for and have not come. One that hangs is not asked for again: it would
hold one more thread each time."""


async def read_keyring(service: str, user: str, identifier: object) -> str:
    """The password of an entry; raises `SecretUnavailable`."""
    asked = _asking.get((service, user)) or _ask(service, user)
    try:
        async with asyncio.timeout(PATIENCE):
            value = await asyncio.shield(asyncio.wrap_future(asked))
    except TimeoutError:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: the keyring has not answered for {PATIENCE:.0f} s.",
            "It may wait for somebody to unlock it. On a server, choose another backend with PYTHON_KEYRING_BACKEND, or keep the secret in a file.",
        ) from None
    except Exception as error:
        raise _failure(error, identifier) from None
    if value is None:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: the keyring has no entry for user {user} of service {service}.",
            f"Make one, as the user of the engine: keyring set {service} {user}",
        )
    if not value:
        raise SecretUnavailable(
            f"The secret {identifier} can't be used: the entry of the keyring is empty.",
            f"Set it: keyring set {service} {user}",
        )
    return value


def _ask(service: str, user: str) -> concurrent.futures.Future[str | None]:
    answer: concurrent.futures.Future[str | None] = concurrent.futures.Future()
    _asking[service, user] = answer

    def run() -> None:
        try:
            # It takes a tenth of a second to import, and looks for its backends meanwhile.
            import keyring
            from keyring.backends import fail, null

            backend = keyring.get_keyring()
            if isinstance(backend, fail.Keyring | null.Keyring):
                raise _NoBackend
            value = backend.get_password(service, user)
        except BaseException as error:
            _asking.pop((service, user), None)
            answer.set_exception(error)
        else:
            _asking.pop((service, user), None)
            answer.set_result(value)

    # It may hang for ever without keeping the process from its end.
    threading.Thread(target=run, name="entrepot-keyring", daemon=True).start()
    return answer


class _NoBackend(Exception):
    """There is no keyring here that could hold anything."""


def _no_keyring() -> Cause:
    desktop = (
        ""
        if os.environ.get("DBUS_SESSION_BUS_ADDRESS")
        else ": it has no D-Bus session, which the keyring of a desktop needs"
    )
    return Cause(
        CauseCode.KEYRING_MISSING,
        f"There is no keyring for the engine{desktop}.",
        "Install a backend and choose it with PYTHON_KEYRING_BACKEND or keyringrc.cfg, or keep the secret in a file (file:/path).",
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
    # What a backend says may tell what it was asked for or found: only the kind of its error is
    # told.
    return SecretUnavailable(
        f"The secret {identifier} can't be read: the keyring fails ({type(error).__name__}).",
        "Try by hand, as the user of the engine: keyring get SERVICE USER",
    )
