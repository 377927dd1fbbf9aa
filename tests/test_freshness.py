from __future__ import annotations

import pytest

from entrepot.freshness import ALWAYS, NEVER, FreshnessInvalid, freshness_text, parse_freshness, parse_optional_freshness


@pytest.mark.parametrize(
    ("written", "seconds", "text"),
    [
        ("always", ALWAYS, "always"),
        ("0", ALWAYS, "always"),
        (" Never ", NEVER, "never"),
        (300, 300.0, "5 min"),
        (0.5, 0.5, "0.5 s"),
        ("90", 90.0, "90 s"),
        ("30s", 30.0, "30 s"),
        ("10 min", 600.0, "10 min"),
        ("90m", 5400.0, "90 min"),
        ("1 h", 3600.0, "1 h"),
        ("1.5 h", 5400.0, "90 min"),
        ("2D", 172_800.0, "2 d"),
    ],
)
def test_a_freshness_is_read_and_written_back_as_the_same(written: str | float, seconds: float, text: str) -> None:
    assert parse_freshness(written) == seconds
    assert freshness_text(seconds) == text
    assert parse_freshness(text) == seconds


@pytest.mark.parametrize("written", ["", "soon", "5 weeks", "-1", -1, "1 2", "5,5 s", "inf", float("inf"), float("nan"), "366 d", "\u0665 min"])
def test_what_is_no_freshness_is_refused_with_what_to_write(written: str | float) -> None:
    with pytest.raises(FreshnessInvalid, match="never"):
        parse_freshness(written)


@pytest.mark.parametrize("written", [None, "", " default "])
def test_what_is_left_out_is_that_of_the_settings(written: str | None) -> None:
    assert parse_optional_freshness(written) is None
