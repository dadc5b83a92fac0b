"""A covering subset leaves out no pair of values."""

from __future__ import annotations

from itertools import combinations, product

from tests.covering import covering, each_value, every_pair


def test_every_two_values_meet_in_a_few_of_the_cases() -> None:
    factors = [range(3), range(3), range(5), range(2), range(4), range(6)]
    chosen = covering(factors)
    for (one, first), (other, second) in combinations(enumerate(factors), 2):
        assert {(case[one], case[other]) for case in chosen} == set(product(first, second))
    assert len(chosen) <= 40 < 2160


def test_what_is_not_allowed_is_in_no_case_and_the_rest_is_all_there() -> None:
    mark = every_pair(lambda a, b, c: a != b, a=[0, 1, 2], b=[0, 1, 2], c=["x", "y"])
    cases = mark.args[1]
    assert len(cases) == 12 and all(case.values[0] != case.values[1] for case in cases)
    quick = [case.values for case in cases if not case.marks]
    assert {(a, c) for a, _, c in quick} == set(product(range(3), "xy"))
    assert cases[0].id == "0-1-x"


def test_the_quick_cases_of_each_value_hold_each_value_and_all_cases_are_there() -> None:
    mark = each_value(a=[0, 1, 2], b={"x": 3, "y": 4}, c=[5, 6])
    quick = [case.values for case in mark.args[1] if not case.marks]
    assert len(mark.args[1]) == 12 and len(quick) == 6
    assert [{case[place] for case in quick} for place in range(3)] == [{0, 1, 2}, {3, 4}, {5, 6}]


def test_where_the_share_is_small_a_factor_of_few_values_takes_turns_beside_one_of_many() -> None:
    """Of two values the second one stood in every quick case but the first."""
    mark = each_value(share=100, a=range(12), b=[0, 1], c=[0, 1, 2])
    quick = [case.values for case in mark.args[1] if not case.marks]
    assert len(quick) == 12
    for value in range(3):
        assert {b for _, b, c in quick if c == value} == {0, 1}
