"""What a deletion removes and what stays, in sentences."""

from __future__ import annotations

from entrepot.api.models import DeletionPlan
from entrepot.formatting import counted, size
from tui.presentation.status import join_names

MAX_NAMES = 5
"""Tags or repositories that are named at most."""


def refused_text(plan: DeletionPlan) -> str:
    """Why something can't be deleted."""
    refused = plan.refused or ""
    # The engine's refusal names some of the rules.
    has_more_rules = any(rule not in refused for rule in plan.used_by)
    if not has_more_rules:
        return refused
    return f"{refused}\n\nUsed by {join_names(plan.used_by, limit=MAX_NAMES)}."


def repository_plan_text(plan: DeletionPlan) -> str:
    """What is deleted and what stays when a cached repository is deleted."""
    tags = f" ({join_names(plan.tags, limit=MAX_NAMES, count=plan.tag_count)})" if plan.tags else ""
    return _sentences(
        f"Deletes {counted(plan.tag_count, 'tag')}{tags} and "
        f"{counted(plan.manifest_count, 'manifest')}, and frees {size(plan.freed)}.",
        f"{size(plan.shared)} stay, because other repositories need them too."
        if plan.shared
        else "",
        _pulls(plan),
        _again(plan),
    )


def tag_plan_text(plan: DeletionPlan) -> str:
    """What is deleted and what stays when a tag is deleted."""
    manifests = f" and {counted(plan.manifest_count, 'manifest')}" if plan.manifest_count else ""
    freed = size(plan.freed) if plan.freed else "nothing"
    return _sentences(
        f"Deletes the tag{manifests}, and frees {freed}.",
        f"{size(plan.untagged)} without a tag stay until they are evicted."
        if plan.untagged
        else "",
        f"{size(plan.shared)} stay, because other tags need them too." if plan.shared else "",
        _pulls(plan),
        _again(plan),
    )


def rule_plan_text(plan: DeletionPlan, source: str, target: str) -> str:
    """What is deleted and what stays when a cache rule is deleted."""
    if plan.repository_count:
        names = join_names(plan.repositories, limit=MAX_NAMES, count=plan.repository_count)
        stays = (
            "What it cached stays, and can still be pulled: "
            f"{counted(plan.repository_count, 'repository', 'repositories')} ({names}). "
            "A new rule for the same target requires them to be deleted first."
        )
    else:
        stays = "Nothing is cached through it."
    return _sentences(
        f"Deletes the rule from {source} to {target}. Nothing more is pulled through it.",
        stays,
        _pulls(plan),
    )


def _pulls(plan: DeletionPlan) -> str:
    return f"Cancels {counted(plan.pulls, 'running pull')}." if plan.pulls else ""


def _again(plan: DeletionPlan) -> str:
    if plan.fetched_again_by is not None:
        return f"Its cache rule {plan.fetched_again_by} stays: the next pull fetches it again."
    return "No cache rule answers for it any more: it can't be fetched again."


def _sentences(*sentences: str) -> str:
    return "\n".join(sentence for sentence in sentences if sentence)
