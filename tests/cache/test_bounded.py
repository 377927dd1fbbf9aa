"""Mappings with a bound for each and one for all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from entrepot.cache.bounded import BoundedGroups, BoundedMap, Tally


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


class Numbers:
    """A group with one mapping."""

    def __init__(self, tally: Tally) -> None:
        self.numbers: BoundedMap[int, int] = BoundedMap(10, tally)

    def release(self) -> None:
        self.numbers.release()


def test_a_value_that_is_used_goes_last() -> None:
    numbers: BoundedMap[str, int] = BoundedMap(2, Tally())
    numbers["a"], numbers["b"] = 1, 2
    assert (numbers.use("a"), numbers.use("none")) == (1, None)
    numbers["c"] = 3
    assert dict(numbers) == {"a": 1, "c": 3}


def test_beyond_a_number_of_groups_those_used_longest_ago_go() -> None:
    groups: BoundedGroups[str, Numbers] = BoundedGroups(Numbers, limit=2, max_entries=100)
    for name in "ab":
        groups.of(name).numbers[1] = 1
    assert groups.get("a") is not None
    groups.of("c")
    assert (groups.get("b"), len(groups), groups.entries) == (None, 2, 1)
    groups.drop("a")
    groups.drop("never there")
    assert (len(groups), groups.entries) == (1, 0)


def test_beyond_a_number_of_entries_the_oldest_groups_go_and_the_current_one_stays() -> None:
    groups: BoundedGroups[str, Numbers] = BoundedGroups(Numbers, limit=100, max_entries=8)
    for name in "abcde":
        for number in range(2):
            groups.of(name).numbers[number] = number
    groups.of("e")
    assert (groups.entries, groups.get("a"), groups.get("b")) == (6, None, None)
    for number in range(10):
        groups.of("f").numbers[number] = number
    groups.of("f")
    assert (len(groups), groups.entries) == (1, 10)
