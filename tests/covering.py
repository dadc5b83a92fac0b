"""Full products of options are slow; a subset that holds every pair of values is quick."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest


def covering(factors: Sequence[Sequence[object]], allowed: Callable[..., bool] = lambda *case: True
             ) -> list[tuple[int, ...]]:
    """A few cases in which every two values of different factors meet, as numbers of values: greedily, case by case.

    Of factors with a few values each this is about the product of the two longest, whatever their number.
    """
    cases = [case for case in itertools.product(*(range(len(values)) for values in factors))
             if allowed(*(values[number] for values, number in zip(factors, case, strict=True)))]

    def pairs(case: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(itertools.combinations(enumerate(case), min(2, len(factors))))

    chosen, left = [], {case: pairs(case) for case in cases}
    missing = set().union(*left.values())
    while missing:
        best = max(cases, key=lambda case: len(left[case] & missing))
        chosen.append(best)
        missing -= left[best]
    return chosen


def every_pair(allowed: Callable[..., bool] = lambda *case: True, **factors: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrise a test over the product of `factors`; all but a covering subset of it is marked slow.

    `allowed(*case)` says which cases there are. A dictionary gives the names of its values.
    """
    plain = [list(values.values()) if isinstance(values, dict) else values for values in factors.values()]
    return _product(factors, set(covering(plain, allowed)).__contains__, allowed)


def each_value(share: int = 2, **factors: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrise a test over the product of `factors`; about one case in `share` is quick, and the others are slow.

    The quick ones lie on the product's diagonals. Where these miss a value of a factor, a case of it is quick as well:
    each value of each factor is among them. A dictionary gives the names of its values.
    """
    sizes = [len(values) for values in factors.values()]
    quick = [numbers for numbers in itertools.product(*map(range, sizes)) if sum(numbers) % share == 0]
    seen = [{numbers[place] for numbers in quick} for place in range(len(sizes))]
    missing = [sorted(set(range(size)) - values) for size, values in zip(sizes, seen, strict=True)]
    for number in range(max(map(len, missing))):
        quick.append(tuple(left[number] if number < len(left) else (number + place) % size
                           for place, (left, size) in enumerate(zip(missing, sizes, strict=True))))
    return _product(factors, set(quick).__contains__)


def one_in(share: int, values: Sequence[Any]) -> list[Any]:
    """Return the parameters of a test of which one in `share` is quick, and the others are slow."""
    return [pytest.param(*(value if isinstance(value, tuple) else (value,)),
                         marks=() if place % share == 0 else pytest.mark.slow) for place, value in enumerate(values)]


def _product(factors: dict[str, Sequence[Any]], is_quick: Callable[[tuple[int, ...]], bool],
             allowed: Callable[..., bool] = lambda *case: True) -> pytest.MarkDecorator:
    """Parametrise over all cases that are `allowed`; slow are those whose numbers of values are not `is_quick`."""
    named = [list(values.items()) if isinstance(values, dict) else [(None, value) for value in values]
             for values in factors.values()]
    cases = []
    for numbers in itertools.product(*(range(len(values)) for values in named)):
        words, case = zip(*(values[number] for values, number in zip(named, numbers, strict=True)), strict=True)
        if allowed(*case):
            name = "-".join(word or getattr(value, "__name__", str(value))
                            for word, value in zip(words, case, strict=True))
            cases.append(pytest.param(*case, id=name, marks=() if is_quick(numbers) else pytest.mark.slow))
    return pytest.mark.parametrize(list(factors), cases)
