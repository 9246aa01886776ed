from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.errors import SearchError
from asrmerge.search.soup import greedy_soup

SCORES = {"legal": 0.20, "medical": 0.10, "general": 0.30, "technical": 0.15}


class Table:
    """Evaluates by a table, and remembers what was asked for."""

    def __init__(self, table, default):
        self.table, self.default, self.asked = table, default, []

    def __call__(self, members):
        self.asked.append(members)
        return self.table.get(frozenset(members), self.default)


def test_adds_from_best_to_worst_what_is_strictly_better():
    table = Table({frozenset({"medical", "technical"}): 0.10, frozenset({"medical", "legal"}): 0.09}, default=0.095)
    assert greedy_soup(SCORES, table) == ("medical", "legal")
    assert table.asked == [("medical", "technical"), ("medical", "legal"), ("medical", "legal", "general")]


def test_each_step_counts_from_the_best_soup_so_far():
    two, three = frozenset({"medical", "technical"}), frozenset({"medical", "technical", "legal"})
    table = Table({two: 0.05, three: 0.06}, default=0.04)
    assert greedy_soup(SCORES, table) == ("medical", "technical", "general")


def test_higher_can_be_better():
    assert greedy_soup(SCORES, Table({frozenset({"general", "legal"}): 0.31}, 0.0), lower_is_better=False) == ("general", "legal")


def test_ties_go_by_name_whatever_the_order():
    table = Table({}, default=0.5)
    for names in ("cab", "abc", "bca"):
        assert greedy_soup(dict.fromkeys(names, 0.5), table) == ("a",)
    assert table.asked == [("a", "b"), ("a", "c")] * 3
    assert greedy_soup(dict.fromkeys("ba", 0.5), lambda members: 0.6, lower_is_better=False) == ("a", "b")


def test_one_expert_costs_no_evaluation():
    table = Table({}, default=0.0)
    assert greedy_soup({"legal": math.inf}, table) == ("legal",)
    assert table.asked == []


def test_a_soup_that_cannot_be_scored_is_not_kept():
    assert greedy_soup({"a": 0.1, "b": 0.2}, lambda members: math.nan) == ("a",)


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=6), st.randoms(), st.booleans())
def test_never_worse_than_the_best_expert(scores, random, lower):
    values = {}

    def evaluate(members):
        return values.setdefault(frozenset(members), random.random())

    soup = greedy_soup(scores, evaluate, lower_is_better=lower)
    best = min(scores.values()) if lower else max(scores.values())
    reached = scores[soup[0]] if len(soup) == 1 else values[frozenset(soup)]
    assert scores[soup[0]] == best and len(set(soup)) == len(soup)
    assert reached <= best if lower else reached >= best
    assert len(soup) == 1 or reached != best
    assert len(values) == len(scores) - 1


def test_bad_scores_are_refused():
    with pytest.raises(SearchError, match="needs at least one expert"):
        greedy_soup({}, lambda members: 0.0)
    with pytest.raises(SearchError, match="the score of 'b' is NaN: evaluate it again"):
        greedy_soup({"a": 0.1, "b": math.nan}, lambda members: 0.0)
