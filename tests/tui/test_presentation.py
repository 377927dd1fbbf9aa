"""Pictures of the engine turned into rows and sentences, without a terminal."""

from __future__ import annotations

import msgspec

from entrepot.snapshots import (
    CredentialSetSnapshot,
    EngineStatus,
    HealthStatus,
    LayerSnapshot,
    LayerState,
    PullSnapshot,
    PullState,
    SignIn,
    TagSnapshot,
    UpstreamSnapshot,
)
from tui.presentation import (
    asked_by,
    credential_set_lines,
    layer_progress,
    pull_command,
    pull_lines,
    pull_progress,
    tag_row,
    tag_state,
    upstream_lines,
    upstream_state,
)
from tui.screens.overview import figures, needs, sources
from widgets.row_list import Row

NOW = 1_780_000_000.0

LAYER = LayerSnapshot(digest="sha256:" + "a" * 64, media_type="application/vnd.oci.image.layer.v1.tar+gzip", size=1000, received=500, state=LayerState.RUNNING)
PULL = PullSnapshot(
    id="1",
    repository="library/nginx",
    tag="1.27",
    digest="sha256:" + "b" * 64,
    platform="linux/amd64",
    rule="hub-library",
    login_server="docker.io",
    source_repository="docker.io/library/nginx",
    state=PullState.RUNNING,
    started=NOW - 10,
    layers=(LAYER,),
    size=1000,
    received=500,
    speed=31_000_000,
    time_left=4.0,
    asked_by=("10.0.4.17", "10.0.4.18", "cli"),
)
TAG = TagSnapshot(
    name="1.27", digest="sha256:" + "c" * 64, platforms=("linux/amd64", "linux/arm64"), size=71_200_000, cached=NOW - 7200, checked=NOW - 60,
    last_pull=None, fresh_until=NOW + 180,
)  # fmt: skip
STATUS = EngineStatus(
    version="1", address="127.0.0.1:5000", started=NOW - 3600, rules=12, rules_limit=1000, credential_sets=1, repositories=3, blobs_size=10**9,
    space_free=10**10, pulls_running=0, speed=0.0, served=1000, from_source=60,
)  # fmt: skip


def texts(row: Row) -> list[str]:
    return [cell.text for cell in row.cells]


def test_a_running_pull_shows_bar_share_speed_and_time_left() -> None:
    assert texts(pull_progress(PULL, NOW)) == ["[######------]", "50%", "31.0 MB/s", "4 s"]


def test_a_pull_says_in_words_what_no_bar_can() -> None:
    ended = {"ended": NOW - 120, "speed": 0.0, "time_left": None}
    for changes, expected in (
        ({"size": 0, "layers": ()}, ["asking", "", "", ""]),
        ({"speed": 0.0, "time_left": None}, ["[######------]", "50%", "waiting", ""]),
        ({"speed": 0.0, "time_left": None, "layers": (msgspec.structs.replace(LAYER, state=LayerState.RESUMED),)}, ["[######------]", "50%", "resuming", ""]),
        ({"state": PullState.COMPLETED, "from_source": 0, **ended}, ["complete", "", "held already", "2 min ago"]),
        ({"state": PullState.FAILED, **ended}, ["failed", "", "", "2 min ago"]),
        ({"state": PullState.CANCELLED, **ended}, ["cancelled", "", "", "2 min ago"]),
    ):
        assert texts(pull_progress(msgspec.structs.replace(PULL, **changes), NOW)) == expected


def test_a_failed_pull_gives_its_reason_with_the_code() -> None:
    failed = msgspec.structs.replace(PULL, state=PullState.FAILED, ended=NOW, error_code="SourceUnreachable", error_message="docker.io can't be reached.")
    assert "failed: docker.io can't be reached. (SourceUnreachable)" in pull_lines(failed, NOW)[0]


def test_who_asked_is_the_first_and_how_many_more() -> None:
    assert [asked_by(who) for who in ((), ("cli",), ("a", "b", "c"))] == ["-", "cli", "a and 2 more"]


def test_a_layer_tells_its_state_by_word() -> None:
    for state, word in (
        (LayerState.WAITING, "waiting"),
        (LayerState.VERIFIED, "verified"),
        (LayerState.HELD, "held already"),
        (LayerState.FAILED, "failed"),
    ):
        assert texts(layer_progress(msgspec.structs.replace(LAYER, state=state)))[0] == word
    resumed = msgspec.structs.replace(LAYER, state=LayerState.RESUMED, resumed_at=12_000_000, waiting_clients=3)
    assert texts(layer_progress(resumed)) == ["[#######-------]", "50%", "resumed at 12.0 MB  3 reading"]


def test_a_tag_says_how_much_it_is_to_be_believed() -> None:
    assert texts(tag_row(TAG, NOW)) == ["1.27", "amd64 arm64", "71.2 MB", "2 h", "never", "fresh, 3 min left"]
    assert tag_state(msgspec.structs.replace(TAG, fresh_until=NOW), NOW) == ("checked 1 min ago", "dim")
    assert tag_state(msgspec.structs.replace(TAG, gone=True), NOW) == ("gone at its source, kept", "warn")


def test_a_source_registry_is_well_or_says_what_it_serves() -> None:
    found = UpstreamSnapshot(name="Docker Hub", login_server="docker.io", sign_in=SignIn.REQUIRED)
    assert upstream_state(found)[0] == "not asked"
    assert upstream_state(msgspec.structs.replace(found, reachable=True))[0] == "well"
    assert upstream_state(msgspec.structs.replace(found, reachable=True, allowance_remaining=73, allowance_limit=100))[0] == "well, 73 of 100 pulls left"
    assert upstream_state(msgspec.structs.replace(found, reachable=False)) == ("down, serving what is held", "bad")


def test_a_source_that_can_not_be_reached_says_since_when_and_when_it_is_tried_again() -> None:
    found = UpstreamSnapshot(
        name="Docker Hub",
        login_server="docker.io",
        sign_in=SignIn.REQUIRED,
        problem="docker.io can't be reached.",
        unreachable_since=NOW - 120,
        next_try=NOW + 30,
        allowance_limit=100,
        allowance_window=21_600,
        allowance_resets=NOW + 600,
    )
    assert upstream_lines(found, NOW) == (
        "Docker Hub (docker.io) needs credentials",
        "not asked for 2 min, next try in 30 s   allows 100 pulls in 6 h   counts anew in 10 min   docker.io can't be reached.",
    )
    well = UpstreamSnapshot(name="Quay", login_server="quay.io", sign_in=SignIn.OPTIONAL)
    assert upstream_lines(well, NOW) == ("Quay (quay.io) credentials optional", "No problem is known.")


def test_a_tag_that_is_never_checked_again_says_so() -> None:
    assert tag_state(msgspec.structs.replace(TAG, fresh_until=None), NOW) == ("kept, never checked", "good")


def test_an_unhealthy_credential_set_says_why_and_who_uses_it() -> None:
    found = CredentialSetSnapshot(
        name="hub-login", login_server="docker.io", username_id="env:U", password_id="env:P", created=NOW, health=HealthStatus.UNHEALTHY,
        error_code="SourceRefused", error_message="docker.io refuses.", checked=NOW - 60, used_by=("hub-library",),
    )  # fmt: skip
    first, second = credential_set_lines(found, NOW)
    assert first == "hub-login is unhealthy, tried 1 min ago: docker.io refuses. (SourceRefused)"
    assert second.startswith("used by hub-library")


def test_the_overview_counts_what_the_cache_saved() -> None:
    told = figures(STATUS, NOW)
    assert "Since the start, 1 h ago" in told
    assert "from the cache       940 B  94%" in told
    assert needs(STATUS) == "All is well."
    assert needs(msgspec.structs.replace(STATUS, notices=("hub-login is unhealthy",))) == "Needs you\n  ! hub-login is unhealthy"
    assert "first cache rule" in needs(msgspec.structs.replace(STATUS, rules=0))
    assert sources([]) == "Sources\n  No rule uses one yet."


def test_a_digest_is_pulled_with_an_at_sign() -> None:
    assert pull_command("cache:5000", "library/nginx", "1.27") == "docker pull cache:5000/library/nginx:1.27"
    assert pull_command("cache:5000", "library/nginx", "sha256:ab") == "docker pull cache:5000/library/nginx@sha256:ab"
