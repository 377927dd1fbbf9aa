"""Check passwords of readers against bcrypt hashes.

A hash takes a tenth of a second of a processor, and a container client signs in with every request.
So a success is remembered while it is used, by a keyed hash that is in memory only, and a failure
for a minute: clients of a mirror send credentials of other registries again and again. Guesses are
slowed for each address; credentials that were right before are not.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from entrepot.core.tokens import PREFIX
from entrepot.errors import EngineBusy
from entrepot.formatting import printable
from entrepot.source.singleflight import SingleFlight

SUCCESS_TTL: Final = 300.0
"""Seconds for which right credentials are not hashed again after their last use."""

SUCCESS_LIMIT: Final = 3600.0
"""Seconds after which right credentials are hashed again, however often they are used."""

KNOWN_TTL: Final = 86_400.0
"""Seconds after a check for which right credentials are no guess when they are hashed again."""

FAILURE_TTL: Final = 60.0
"""Seconds for which wrong credentials are not hashed again, and count as one guess."""

REMEMBERED: Final = 10_000
"""Credentials, and addresses, that are remembered at the most."""

FREE_GUESSES: Final = 10
"""Wrong credentials from one address that cost nothing."""

MAX_WAIT: Final = 60.0
"""Seconds after which one more guess is allowed, at the most. It begins with one second, and
doubles with each wrong guess."""

QUIET: Final = 900.0
"""Seconds without a guess after which those of an address are forgotten."""

CONCURRENT_CHECKS: Final = 2
"""Passwords that are hashed at the same time."""

PASSWORD_LENGTH: Final = 1024
"""Bytes of the longest password that is looked at."""

BCRYPT_LENGTH: Final = 72
"""Bytes of a password that bcrypt takes; htpasswd leaves the others out too."""

DEFAULT_COST: Final = 10
"""The bcrypt cost of a check while no name has a password."""

_log = logging.getLogger("entrepot.readers")


class TooManyGuesses(EngineBusy):
    """Too many wrong credentials came from one address."""

    code = "TooManyGuesses"
    status = oci_status = 429

    def __init__(self, retry_after: int) -> None:
        """*retry_after* is in seconds."""
        super().__init__(
            "Too many wrong passwords came from this address.",
            "Try again later.",
            retry_after=retry_after,
        )


@dataclass(slots=True)
class _Guesses:
    count: int = 0
    last: float = 0.0
    next_allowed: float = 0.0
    is_reported: bool = False


class GuessLimit:
    """Slows guesses for each address; networks of IPv6 count as one.

    *clock* is monotonic. *on_slowed* is called with an address, or a network, that begins to be
    slowed; not again before it was `QUIET`.
    """

    def __init__(
        self, clock: Callable[[], float], on_slowed: Callable[[str], None] = lambda _: None
    ) -> None:
        self._clock = clock
        self._on_slowed = on_slowed
        self._guesses: OrderedDict[str, _Guesses] = OrderedDict()

    def begin(self, address: str | None) -> None:
        """Count a guess; raises `TooManyGuesses` while no more are allowed."""
        key = _network(address)
        now = self._clock()
        guesses = self._guesses.get(key)
        if guesses is None or now - guesses.last > QUIET:
            guesses = self._guesses[key] = _Guesses()
        if now < guesses.next_allowed:
            raise TooManyGuesses(max(1, round(guesses.next_allowed - now)))
        self._guesses.move_to_end(key)
        guesses.count, guesses.last = guesses.count + 1, now
        if guesses.count > FREE_GUESSES:
            wait = min(MAX_WAIT, 2.0 ** min(10, guesses.count - FREE_GUESSES - 1))
            guesses.next_allowed = now + wait
        while len(self._guesses) > REMEMBERED:
            self._guesses.popitem(last=False)

    def was_wrong(self, address: str | None) -> None:
        """Report an address whose last guess was wrong, if it is slowed from now on."""
        key = _network(address)
        guesses = self._guesses.get(key)
        if guesses is not None and guesses.count > FREE_GUESSES and not guesses.is_reported:
            guesses.is_reported = True
            self._on_slowed(key)

    def was_right(self, address: str | None) -> None:
        """Do not count the last guess: it was right."""
        guesses = self._guesses.get(_network(address))
        if guesses is not None:
            guesses.count = max(0, guesses.count - 1)
            guesses.next_allowed = 0.0 if guesses.count <= FREE_GUESSES else guesses.next_allowed


def _network(address: str | None) -> str:
    try:
        ip = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if ip.version == 6 and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


@dataclass(slots=True)
class _Result:
    """What a check of a name and a password said."""

    is_right: bool
    password_hash: bytes | None
    """What the password file had for the name; a result counts as long as the file has this."""
    checked: float
    expires: float


class PasswordCheck:
    """Checks names and passwords.

    *clock* is monotonic, in seconds; *on_slowed* is that of `GuessLimit`.
    """

    def __init__(
        self, clock: Callable[[], float], on_slowed: Callable[[str], None] = lambda _: None
    ) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._hashes: Mapping[str, bytes] = {}
        self._cost = DEFAULT_COST
        self._results: OrderedDict[bytes, _Result] = OrderedDict()
        """By a keyed hash of name and password; those that were not used for longest are first."""
        self._checks: SingleFlight[bool] = SingleFlight()
        self._slots = asyncio.Semaphore(CONCURRENT_CHECKS)
        self.guesses = GuessLimit(clock, on_slowed)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that have a password."""
        return tuple(self._hashes)

    def cheaper_than(self, cost: int) -> tuple[str, ...]:
        """The names whose hashes have a lower bcrypt cost."""
        return tuple(name for name, each in self._hashes.items() if bcrypt_cost(each) < cost)

    def use(self, hashes: Mapping[str, bytes]) -> None:
        """Check against other hashes from now on."""
        self._hashes = hashes
        # A check that fails takes as long for each name: as long as the highest cost takes.
        self._cost = max(map(bcrypt_cost, hashes.values()), default=DEFAULT_COST)

    async def close(self) -> None:
        """Give up the checks under way."""
        await self._checks.close()

    def fingerprint(self, name: str) -> str | None:
        """A text that changes with the password of *name*; None where there is no such name."""
        password_hash = self._hashes.get(name)
        if password_hash is None:
            return None
        return hashlib.blake2b(password_hash, key=self._key, digest_size=12).hexdigest()

    async def is_right(self, name: str, password: str, address: str | None) -> bool:
        """Whether a name has this password; raises `TooManyGuesses`."""
        secret = password.encode("utf-8", "surrogatepass")
        if len(secret) > PASSWORD_LENGTH or b"\0" in secret:
            return False
        name_bytes = name.encode("utf-8", "surrogatepass")
        key = hashlib.blake2b(
            len(name_bytes).to_bytes(4, "big") + name_bytes + secret, key=self._key, digest_size=32
        ).digest()
        result = self._results.get(key)
        if result is not None and result.password_hash != self._hashes.get(name):
            result = None
        now = self._clock()
        if result is not None and now < result.expires:
            if result.is_right:
                result.expires = min(now + SUCCESS_TTL, result.checked + SUCCESS_LIMIT)
                self._results.move_to_end(key)
            return result.is_right
        # Another client behind the same address that guesses does not hold these up.
        is_known = result is not None and result.is_right and now < result.checked + KNOWN_TTL
        return await self._checks.join(
            key, lambda: self._check(key, name, secret, address, is_guess=not is_known)
        )

    async def _check(
        self, key: bytes, name: str, secret: bytes, address: str | None, *, is_guess: bool
    ) -> bool:
        if is_guess:
            self.guesses.begin(address)
        password_hash = self._hashes.get(name)
        async with self._slots:
            is_right = await asyncio.to_thread(_matches, secret, password_hash, self._cost)
        if is_right and is_guess:
            self.guesses.was_right(address)
        elif not is_right:
            # What comes again within `FAILURE_TTL` is not logged again.
            shown = "a token" if name.startswith(PREFIX) else printable(name, 64) or "nobody"
            _log.warning("The sign-in of %s from %s is refused", shown, address or "a local client")
            self.guesses.was_wrong(address)
        now = self._clock()
        expires = now + (SUCCESS_TTL if is_right else FAILURE_TTL)
        self._results[key] = _Result(is_right, password_hash, now, expires)
        self._results.move_to_end(key)
        while len(self._results) > REMEMBERED:
            self._results.popitem(last=False)
        # The file may have been read again meanwhile.
        return is_right and self._hashes.get(name) == password_hash


def bcrypt_cost(password_hash: bytes) -> int:
    """The cost of a bcrypt hash: one more doubles the time that a check takes."""
    return int(password_hash[4:6])


def _matches(secret: bytes, password_hash: bytes | None, highest_cost: int) -> bool:
    """Whether a hash is that of a password.

    If it is not, the time is that of *highest_cost*, so it does not say whether the name exists:
    2**c + (2**c + 2**(c+1) + … + 2**(h-1)) is 2**h.
    """
    import bcrypt

    secret = secret[:BCRYPT_LENGTH]
    if password_hash is None:
        bcrypt.checkpw(secret, _dummy(highest_cost))
        return False
    if bcrypt.checkpw(secret, password_hash):
        return True
    for cost in range(bcrypt_cost(password_hash), highest_cost):
        bcrypt.checkpw(secret, _dummy(cost))
    return False


def _dummy(cost: int) -> bytes:
    """A hash that no password has."""
    return b"$2b$%02d$%s" % (cost, b"." * 53)
