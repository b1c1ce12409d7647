"""Radiographs of nearly the same bone age, among the bundled ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from boneage import datasets
from boneage.datasets import Case
from boneage.errors import InputError
from boneage.nearest import nearest


@pytest.fixture(scope="module")
def cases(rsna_test_dir: Path) -> tuple[Case, ...]:
    return datasets.load(rsna_test_dir).cases


def case(id: str, age: float, sex: str = "F") -> Case:
    return Case(id, Path(f"{id}.png"), "test", age, sex)


@pytest.mark.parametrize("sex", ["F", "M"])
def test_every_bundled_radiograph_has_neighbours_of_its_sex(
    cases: tuple[Case, ...], sex: str
) -> None:
    own = [case for case in cases if case.sex == sex]
    assert len(own) == 100
    for each in own:
        chosen = nearest(cases, each.age, sex, exclude=each.id)
        assert len(chosen) == 4
        assert {case.sex for case in chosen} == {sex}
        assert each not in chosen
        assert [case.age for case in chosen] == sorted(case.age for case in chosen)
        others = [case.age for case in own if case is not each]
        assert (chosen[0].age < each.age) == (min(others) < each.age)
        assert (chosen[-1].age > each.age) == (max(others) > each.age)
        # Nobody left out is nearer than the nearest two.
        _, second, *_ = sorted(abs(case.age - each.age) for case in chosen)
        left_out = [case for case in own if case not in (*chosen, each)]
        assert min(abs(case.age - each.age) for case in left_out) >= second


def test_one_younger_and_one_older_though_others_are_nearer() -> None:
    films = [case("a", 50), case("b", 99), case("c", 100), case("d", 101), case("e", 150)]
    assert [c.id for c in nearest(films, 102, "F", 2)] == ["d", "e"]
    assert [c.id for c in nearest(films, 98, "F", 3)] == ["a", "b", "c"]
    assert [c.id for c in nearest(films, 102, "F", 1)] == ["d"]


def test_where_all_are_older_or_younger() -> None:
    films = [case("a", 50), case("b", 60), case("c", 70)]
    assert [c.id for c in nearest(films, 10, "F", 2)] == ["a", "b"]
    assert [c.id for c in nearest(films, 90, "F", 2)] == ["b", "c"]
    assert [c.id for c in nearest(films, 90, "F", 9)] == ["a", "b", "c"]
    assert nearest(films, 90, "M") == []


def test_the_order_given_is_of_no_matter() -> None:
    films = [case(f"{i:02}", 100 + i % 3) for i in range(30)]
    expected = ["00", "01", "04", "02"]
    for seed in range(5):
        shuffled = random.Random(seed).sample(films, len(films))
        assert [c.id for c in nearest(shuffled, 101, "F")] == expected


def test_count_below_one() -> None:
    with pytest.raises(InputError, match="at least 1"):
        nearest([], 100, "F", 0)
