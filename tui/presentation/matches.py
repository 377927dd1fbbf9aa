"""Which rule answers for an image, in sentences."""

from __future__ import annotations

from entrepot.api.models import RuleMatch
from entrepot.core.states import CachedState
from tui.presentation.status import join_names


def match_lines(found: RuleMatch) -> tuple[str, ...]:
    """What answers, with what, and whether it is held; or why nothing does, and what comes near."""
    if found.rule is None:
        near = [
            f"  {each.name}   {each.target_repository} from {each.source_repository}\n    {each.why}"
            for each in found.near
        ]
        return (
            found.why_not or "No cache rule answers for it.",
            *(("", "Near:", *near) if near else ()),
            *_others(found),
        )
    signs_in = (
        f"signs in with {found.credential_set}" if found.credential_set else "no credential set"
    )
    return (
        f"{found.rule} answers, with {found.source_repository}",
        f"{signs_in}   {match_state(found)}",
        *((f"pull it as {found.pull}",) if found.pull else ()),
        *_others(found),
    )


def match_state(found: RuleMatch) -> str:
    """How much of what was asked for is held."""
    if found.tag is None and found.digest is None:
        return (
            "the repository is cached"
            if found.holding is not CachedState.NOT_CACHED
            else "nothing of the repository is cached yet"
        )
    return {
        CachedState.CACHED: "held",
        CachedState.PARTLY_CACHED: "held in part",
        CachedState.NOT_CACHED: "not held yet",
    }[found.holding]


def rule_to_show(found: RuleMatch) -> str | None:
    """The rule that answers, or else the nearest."""
    return found.rule or (found.near[0].name if found.near else None)


def _others(found: RuleMatch) -> tuple[str, ...]:
    return (f"also here as {join_names(found.others, limit=3)}",) if found.others else ()
