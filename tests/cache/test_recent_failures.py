"""What failed a moment ago: remembered as kind, text and status, for seconds, and within bounds."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import pytest

from entrepot.cache.recent_failures import REMEMBERED_FAILURES, Failure, Failures
from entrepot.core.reference import Repository
from entrepot.errors import BlobUnknown, EntrepotError, ManifestUnknown, RangeUnsatisfiable
from entrepot.source.errors import SourceFailed, SourceRateLimited
from tests.conftest import Clock

NGINX = Repository("library/nginx")
LIFETIME = 10.0


class Answer:
    """Stands for the answer of a source, which the frame of a failed request refers to."""


@pytest.fixture
def failures(clock: Clock) -> Failures:
    return Failures(lifetime=LIFETIME, clock=clock, limit=100)


@pytest.mark.parametrize(
    "error",
    [
        ManifestUnknown("It is not there.", "Look elsewhere.", field="tag"),
        SourceRateLimited("Too many.", "Try again later.", retry_after=30.0),
        RangeUnsatisfiable("It is shorter.", size=5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_s24_a_failure_is_raised_again_with_its_class_and_all_that_it_says(
    error: EntrepotError,
) -> None:
    again = Failure.of(error).error()
    assert type(again) is type(error)
    assert again is not error
    assert vars(again) == vars(error)
    assert (again.message, again.args, again.oci_status, again.status) == (
        error.message,
        error.args,
        error.oci_status,
        error.status,
    )


def test_s24_nothing_of_the_request_that_failed_is_kept(failures: Failures) -> None:
    def fail() -> weakref.ref[Answer]:
        answer = Answer()
        try:
            try:
                raise ValueError(f"an answer: {answer}")
            except ValueError as error:
                raise SourceFailed("It fails.") from error
        except SourceFailed as error:
            failures.remember(NGINX, "1", error)
        return weakref.ref(answer)

    of_first_failure = fail()
    gc.collect()
    assert of_first_failure() is None
    with pytest.raises(SourceFailed, match=r"It fails\.") as raised:
        failures.check(NGINX, "1")
    assert raised.value.__cause__ is None


def test_s24_each_time_it_is_raised_it_is_a_new_exception(failures: Failures) -> None:
    failures.remember(NGINX, "1", SourceFailed("It fails."))
    raised = []
    for _ in range(2):
        with pytest.raises(SourceFailed) as caught:
            failures.check(NGINX, "1")
        raised.append(caught.value)
    assert raised[0] is not raised[1]


def test_s24_what_has_expired_is_let_go(failures: Failures, clock: Clock) -> None:
    for number in range(50):
        failures.remember(NGINX, str(number), ManifestUnknown("It is not there."))
    clock.now += LIFETIME / 2
    failures.remember(NGINX, "later", ManifestUnknown("It is not there."))
    clock.now += LIFETIME / 2
    failures.drop_expired()
    assert len(failures) == 1
    failures.check(NGINX, "0")
    with pytest.raises(ManifestUnknown):
        failures.check(NGINX, "later")
    clock.now += LIFETIME
    failures.remember(NGINX, "last", ManifestUnknown("It is not there."))
    assert len(failures) == 1


def test_s24_failures_are_bounded_in_number_and_in_size(failures: Failures) -> None:
    for number in range(1_000):
        failures.remember(NGINX, str(number), ManifestUnknown("x" * 1_000_000))
    assert len(failures) == 100
    with pytest.raises(ManifestUnknown) as raised:
        failures.check(NGINX, "999")
    assert len(raised.value.what) == 1_000


def test_s24_twelve_thousand_unknown_tags_do_not_grow_beyond_a_bound(clock: Clock) -> None:
    """L10: it was 25 kB each. Every error here has a frame with as much behind it."""
    failures = Failures(lifetime=LIFETIME, clock=clock)

    def fail(tag: str) -> None:
        answer = bytes(25_000)
        raise ManifestUnknown(
            f"docker.io/library/nginx has no {tag} ({len(answer)}).", "Look elsewhere."
        )

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(12_000):
            try:
                fail(f"tag-{number}")
            except ManifestUnknown as error:
                failures.remember(NGINX, f"tag-{number}", error)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(failures) == REMEMBERED_FAILURES
    assert grown < 2_000 * REMEMBERED_FAILURES


def test_what_has_a_copy_is_told_apart_from_what_has_none(failures: Failures) -> None:
    failures.remember(NGINX, "copy", SourceFailed("It fails."), has_copy=True)
    failures.remember(NGINX, "none", BlobUnknown("It is not there."))
    failures.check(NGINX, "copy", without_copy=True)
    with pytest.raises(SourceFailed):
        failures.check(NGINX, "copy")
    with pytest.raises(BlobUnknown):
        failures.check(NGINX, "none", without_copy=True)
    failures.forget(NGINX, "none")
    failures.check(NGINX, "none")


def test_l14_what_many_clients_ask_for_survives_a_client_that_asks_for_everything(
    failures: Failures,
) -> None:
    for number in range(30):
        failures.remember(NGINX, f"popular-{number}", ManifestUnknown("It is not there."))
        with pytest.raises(ManifestUnknown):
            failures.check(NGINX, f"popular-{number}")
    for number in range(1_000):
        failures.remember(NGINX, f"flood-{number}", ManifestUnknown("It is not there."))
    assert len(failures) == 100
    for number in range(30):
        with pytest.raises(ManifestUnknown):
            failures.check(NGINX, f"popular-{number}")
    failures.check(NGINX, "flood-0")
    with pytest.raises(ManifestUnknown):
        failures.check(NGINX, "flood-999")


def test_l14_what_was_asked_for_twice_leaves_half_of_the_room_to_what_is_new(
    failures: Failures,
) -> None:
    for number in range(200):
        failures.remember(NGINX, f"twice-{number}", ManifestUnknown("It is not there."))
        with pytest.raises(ManifestUnknown):
            failures.check(NGINX, f"twice-{number}")
    for number in range(50):
        failures.remember(NGINX, f"new-{number}", ManifestUnknown("It is not there."))
    assert len(failures) == 100
    for number in range(50):
        with pytest.raises(ManifestUnknown):
            failures.check(NGINX, f"new-{number}")


def test_a_failure_that_was_asked_for_twice_ends_with_its_lifetime(
    failures: Failures, clock: Clock
) -> None:
    failures.remember(NGINX, "1", ManifestUnknown("It is not there."))
    clock.now += LIFETIME / 2
    with pytest.raises(ManifestUnknown):
        failures.check(NGINX, "1")
    clock.now += LIFETIME / 2
    failures.check(NGINX, "1")
    assert len(failures) == 0
