"""Which rule answers, in sentences."""

from __future__ import annotations

import msgspec

from entrepot.api.models import NearRule, RuleMatch
from entrepot.core.states import CachedState
from tui.presentation.matches import match_lines, rule_to_show

FOUND = RuleMatch(
    image="library/nginx:1.27", repository="library/nginx", tag="1.27", digest=None, rule="hub-library", source_repository="docker.io/library/nginx",
    credential_set="hub-login", pull="cache:5000/library/nginx:1.27", cached_state=CachedState.CACHED,
)  # fmt: skip


def test_the_rule_that_answers_is_told_with_its_source_sign_in_and_what_is_held() -> None:
    assert match_lines(FOUND) == (
        "hub-library answers, with docker.io/library/nginx",
        "signs in with hub-login   cached",
        "pull it as cache:5000/library/nginx:1.27",
    )
    assert rule_to_show(FOUND) == "hub-library"


def test_of_a_repository_it_is_told_whether_anything_is_cached() -> None:
    whole = msgspec.structs.replace(FOUND, tag=None)
    assert match_lines(whole)[1].endswith("   repository cached")
    assert match_lines(msgspec.structs.replace(whole, cached_state=CachedState.NOT_CACHED))[
        1
    ].endswith("   repository not cached")
    assert match_lines(msgspec.structs.replace(FOUND, cached_state=CachedState.NOT_CACHED))[
        1
    ].endswith("   not cached")


def test_where_no_rule_answers_the_reason_and_what_comes_near_are_told_and_the_nearest_is_gone_to() -> (
    None
):
    near = NearRule(
        name="hub-nginx",
        source_repository="docker.io/library/nginx",
        target_repository="nginx",
        why="Its target is nginx.",
    )
    none = msgspec.structs.replace(
        FOUND,
        rule=None,
        source_repository=None,
        pull=None,
        why_not="No cache rule answers.",
        near=(near,),
    )
    assert match_lines(none) == (
        "No cache rule answers.",
        "",
        "Similar rules:",
        "  hub-nginx   nginx from docker.io/library/nginx\n    Its target is nginx.",
    )
    assert rule_to_show(none) == "hub-nginx"
    assert rule_to_show(msgspec.structs.replace(none, near=())) is None


def test_the_other_names_under_which_the_same_source_is_here_are_told() -> None:
    assert (
        match_lines(msgspec.structs.replace(FOUND, others=("mirror/nginx",)))[-1]
        == "also here as mirror/nginx"
    )
