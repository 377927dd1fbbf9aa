"""WWW-Authenticate headers: the challenges of a registry that asks for a sign-in.

RFC 9110, section 11.6.1, defines them; the reader here forgives what registries and proxies get
wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CHALLENGES_LENGTH = 16 * 1024
"""Characters of all challenges of a response that are read; those with a scope for many
repositories reach 1 kB."""

_SCHEMES = frozenset(
    {
        "basic",
        "bearer",
        "digest",
        "hoba",
        "mutual",
        "negotiate",
        "ntlm",
        "oauth",
        "scram-sha-1",
        "scram-sha-256",
        "vapid",
    }
)
_WORD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER = re.compile(r"\s*=\s*(?:\"((?:[^\"\\]|\\.)*)(?:\"|$)|([^\s,]*))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: its scheme and the names of its parameters in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Read the challenges of all WWW-Authenticate headers, also several in one header.

    Forgiven are: commas left out or doubled, values unquoted or in single quotes, a quote that is
    never closed. At most `CHALLENGES_LENGTH` characters are read.
    """
    challenges: list[Challenge] = []
    budget = CHALLENGES_LENGTH
    for value in values:
        value = value[:budget]
        budget -= len(value)
        at = 0
        parameters: dict[str, str] | None = None
        last_unquoted: str | None = None
        while at < len(value):
            word = _WORD.match(value, at)
            if word is None:
                at += 1
                continue
            parameter = _PARAMETER.match(value, word.end()) if parameters is not None else None
            name = word[0].lower()
            if parameter is not None and parameters is not None:
                quoted, bare = parameter[1], parameter[2]
                # Of a parameter that comes twice the last one counts, as in Go.
                parameters[name] = (
                    re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare.strip("'")
                )
                last_unquoted = name if quoted is None else None
                at = parameter.end()
            elif name in _SCHEMES or parameters is None or last_unquoted is None:
                parameters = {}
                last_unquoted = None
                challenges.append(Challenge(name, parameters))
                at = word.end()
            else:
                # The comma stood inside an unquoted value: scope=repository:a:pull,push
                parameters[last_unquoted] += f",{word[0]}"
                at = word.end()
    return challenges


def asks_for_sign_in(values: Iterable[str], *, basic: bool) -> bool:
    """Whether challenges are a registry's, not those of storage with an expired URL.

    *basic*: a challenge for Basic counts too.
    """
    return any(
        (challenge.scheme == "bearer" and challenge.parameters.get("realm"))
        or (basic and challenge.scheme == "basic")
        for challenge in parse_challenges(values)
    )
