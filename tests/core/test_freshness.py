"""How long a tag is believed, as people write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.core.freshness import (
    ALWAYS,
    LONGEST,
    NEVER,
    FreshnessInvalid,
    freshness_text,
    parse_freshness,
    parse_optional_freshness,
)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("always", ALWAYS),
        (" Never ", NEVER),
        ("30", 30),
        ("30 s", 30),
        ("10min", 600),
        ("10 min", 600),
        ("1.5 h", 5400),
        ("2 d", 172_800),
        (90, 90),
        (0.5, 0.5),
    ],
)
def test_a_freshness_is_read(written: str | float, seconds: float) -> None:
    assert parse_freshness(written) == seconds


@pytest.mark.parametrize(
    "written", ["", "soon", "-1", "10 weeks", "1 2", -1, LONGEST + 1, "366 d", float("nan")]
)
def test_what_is_no_freshness_is_refused_with_what_to_write(written: str | float) -> None:
    with pytest.raises(FreshnessInvalid) as refused:
        parse_freshness(written)
    assert "never" in refused.value.hint
    assert refused.value.field == "freshness"


@pytest.mark.parametrize("written", [None, "", "default", " Default "])
def test_it_may_be_left_to_the_settings(written: str | None) -> None:
    assert parse_optional_freshness(written) is None


@given(st.integers(0, int(LONGEST)))
def test_what_is_shown_is_read_back_as_the_same(seconds: int) -> None:
    assert parse_freshness(freshness_text(float(seconds))) == seconds


def test_the_largest_unit_that_fits_is_shown() -> None:
    assert [freshness_text(each) for each in (ALWAYS, NEVER, 45, 300, 7200, 86_400)] == [
        "always",
        "never",
        "45 s",
        "5 min",
        "2 h",
        "1 d",
    ]
