"""What a deletion takes and what it leaves, in sentences."""

from __future__ import annotations

from entrepot.api.models import DeletionPlan
from entrepot.formatting import counted, size
from tui.presentation.status import join_names

NAMES = 5
"""So many tags or repositories are named."""


def refused_text(plan: DeletionPlan) -> str:
    """Why something can't be deleted."""
    refused = plan.refused or ""
    # The engine names some of the rules itself.
    used = any(each not in refused for each in plan.used_by)
    return f"{refused}\n\nUsed by {join_names(plan.used_by, limit=NAMES)}." if used else refused


def repository_plan_text(plan: DeletionPlan) -> str:
    """What goes and what stays when a cached repository is deleted."""
    tags = f" ({join_names(plan.tags, limit=NAMES, count=plan.tag_count)})" if plan.tags else ""
    return _sentences(
        f"Goes: {counted(plan.tag_count, 'tag')}{tags} and {counted(plan.manifest_count, 'manifest')}, {size(plan.freed)} on the disk.",
        f"Stays: {size(plan.shared)} that other repositories need too." if plan.shared else "",
        _pulls(plan),
        _again(plan),
    )


def tag_plan_text(plan: DeletionPlan) -> str:
    """What goes and what stays when a tag is deleted."""
    manifests = f" and {counted(plan.manifest_count, 'manifest')}" if plan.manifest_count else ""
    freed = f", {size(plan.freed)} on the disk" if plan.freed else ", and nothing on the disk"
    return _sentences(
        f"Goes: the tag{manifests}{freed}.",
        f"Stays: {size(plan.untagged)} to which no tag leads any more, until it is evicted."
        if plan.untagged
        else "",
        f"Stays: {size(plan.shared)} that others need too." if plan.shared else "",
        _pulls(plan),
        _again(plan),
    )


def rule_plan_text(plan: DeletionPlan, source: str, target: str) -> str:
    """What goes and what stays when a cache rule is deleted."""
    if plan.repository_count:
        names = join_names(plan.repositories, limit=NAMES, count=plan.repository_count)
        stays = (
            f"What it cached stays, and stays pullable: {counted(plan.repository_count, 'repository', 'repositories')} ({names}). "
            "A new rule for the same target needs them deleted first."
        )
    else:
        stays = "Nothing is cached through it, so nothing stays without a rule."
    return _sentences(
        f"Goes: the way from {source} to {target}. It is pulled no more.", stays, _pulls(plan)
    )


def _pulls(plan: DeletionPlan) -> str:
    return f"Ends: {counted(plan.pulls, 'pull')} under way." if plan.pulls else ""


def _again(plan: DeletionPlan) -> str:
    if plan.fetched_again_by is not None:
        return f"Its cache rule {plan.fetched_again_by} stays: the next pull fetches it again."
    return "No cache rule answers for it any more: it can't be fetched again."


def _sentences(*sentences: str) -> str:
    return "\n".join(each for each in sentences if each)
