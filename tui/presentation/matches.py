"""Which rule answers for an image, in sentences."""

from __future__ import annotations

from entrepot.api.labels import match_state
from entrepot.api.models import RuleMatch
from tui.presentation.status import join_names


def match_lines(match: RuleMatch) -> tuple[str, ...]:
    """The rule that answers and what is cached, or why none does, and similar rules."""
    if match.rule is None:
        near = [
            f"  {rule.name}   {rule.target_repository} from {rule.source_repository}\n"
            f"    {rule.why}"
            for rule in match.near
        ]
        return (
            match.why_not or "No cache rule answers for it.",
            *(("", "Similar rules:", *near) if near else ()),
            *_others(match),
        )
    signs_in = (
        f"signs in with {match.credential_set}" if match.credential_set else "no credential set"
    )
    return (
        f"{match.rule} answers, with {match.source_repository}",
        f"{signs_in}   {match_state(match)}",
        *((f"pull it as {match.pull}",) if match.pull else ()),
        *_others(match),
    )


def rule_to_show(match: RuleMatch) -> str | None:
    """The name of the rule that answers, or else of the nearest rule."""
    return match.rule or (match.near[0].name if match.near else None)


def _others(match: RuleMatch) -> tuple[str, ...]:
    return (f"also here as {join_names(match.others, limit=3)}",) if match.others else ()
