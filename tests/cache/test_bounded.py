"""Mappings with a bound for each and one for all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from entrepot.cache.bounded import BoundedMap, Tally


def test_what_was_set_longest_ago_goes() -> None:
    tally = Tally()
    numbers: BoundedMap[str, int] = BoundedMap(2, tally)
    numbers["a"], numbers["b"] = 1, 2
    numbers["a"] = 3
    numbers["c"] = 4
    assert dict(numbers) == {"a": 3, "c": 4}
    assert list(reversed(numbers)) == ["c", "a"]
    assert tally.count == 2


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9), st.booleans())))
def test_the_weight_of_all_mappings_is_told_and_each_keeps_its_own(
    steps: list[tuple[str, int, bool]],
) -> None:
    tally = Tally()
    maps: list[BoundedMap[str, int]] = [
        BoundedMap(10, tally, lambda value: value) for _ in range(2)
    ]
    for key, value, second in steps:
        if value == 0:
            maps[second].pop(key, None)
        else:
            maps[second][key] = value
        assert all(sum(each.values()) <= 10 for each in maps)
        assert tally.count == sum(sum(each.values()) for each in maps)
    maps[0].release()
    assert tally.count == sum(maps[1].values())
    maps[0]["a"] = 5
    maps[1].clear()
    assert (tally.count, len(maps[1])) == (0, 0)
