"""Short-lived tokens of the Docker token flow: what a client sends after it has signed in.

An engine signs them with a key that it makes at its start, so they end with it; clients then sign
in again by themselves. They name the reader, and the repositories that the client asked for; what
the reader may is looked up when one is used.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from entrepot.errors import RequestInvalid

LIFETIME: Final = 300
"""Seconds for which a token is valid: clients sign in again in the middle of a long pull."""

SCOPES_LIMIT: Final = 50
"""Repositories in one token at the most."""

CATALOG: Final = "registry:catalog"
"""The scope of the list of all repositories, beside names of repositories."""

TOKEN_LENGTH: Final = 6 * 1024
"""Characters of a token at the most: clients send it in a header, and all headers of a request may
have 8 kB."""


class Claims(msgspec.Struct, frozen=True, rename={"name": "n", "expires": "e", "scopes": "s"}):
    """What a token says."""

    name: str
    """Empty for a reader who did not sign in."""
    expires: float
    """In seconds since the epoch."""
    scopes: tuple[str, ...] = ()
    version: str = msgspec.field(default="", name="v")
    """Of the password with which the reader signed in."""
    personal_token: str = msgspec.field(default="", name="t")
    """The hash of the personal token with which the reader signed in, where it was one."""
    throttled_until: float = msgspec.field(default=0.0, name="w")
    """Until when it says that credentials were sent and not checked, in seconds since the epoch."""


class TokenSigner:
    """Signs tokens, and reads its own. *clock* is in seconds since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)

    def sign(self, claims: Claims) -> str:
        """A token that says *claims*; raises `RequestInvalid` if it would be too long."""
        body = base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=")
        token = body + b"." + self._signature(body)
        if len(token) > TOKEN_LENGTH:
            raise RequestInvalid(
                f"A token for {len(claims.scopes):,} repositories with such long names would have "
                f"{len(token):,} characters, and {TOKEN_LENGTH:,} are the most.",
                "Ask for tokens for fewer repositories each.",
            )
        return token.decode()

    def read(self, token: str) -> Claims | None:
        """What a token says; None unless this engine signed it and it has not expired."""
        if len(token) > TOKEN_LENGTH or not token.isascii():
            return None
        body, _, signature = token.encode().partition(b".")
        if not hmac.compare_digest(signature, self._signature(body)):
            return None
        try:
            content = base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4))
            claims = msgspec.json.decode(content, type=Claims)
        except (binascii.Error, msgspec.DecodeError):
            return None
        return claims if self._clock() < claims.expires else None

    def _signature(self, body: bytes) -> bytes:
        digest = hmac.digest(self._key, body, "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=")
