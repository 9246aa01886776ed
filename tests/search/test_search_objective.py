from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.errors import ConfigError, SearchError
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.search import CandidateError, Judgement, Objective, parse_constraint

DOMAINS = ("legal", "medical", "general")


@pytest.mark.parametrize(
    ("text", "bound", "relative"),
    [
        ("general.wer <= 1.05 * base", 1.05, True),
        ("general.wer<=1.05*base", 1.05, True),
        ("general.wer <= base * 1.05", 1.05, True),
        (" general.wer <= base ", 1.0, True),
        ("general.wer <= 0.2", 0.2, False),
        ("general.wer <= .2", 0.2, False),
    ],
)
def test_constraints_are_read(text: str, bound: float, relative: bool):
    constraint = parse_constraint(text, DOMAINS)
    assert (constraint.domain, constraint.bound, constraint.relative) == ("general", bound, relative)
    assert constraint.text == text.strip()


@pytest.mark.parametrize(
    "text", ["", "general.wer < 0.2", "general.wer <= -1", "general.cer <= 0.2", "general.wer <= 20 %", "general.wer <= nan"]
)
def test_what_is_no_constraint_is_refused(text: str):
    with pytest.raises(ConfigError, match="cannot be read: write it as"):
        parse_constraint(text, DOMAINS)


def test_an_unknown_domain_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'genral'; did you mean 'general'\? \(known are general, legal, medical\)"):
        Objective.parse(["legal", "medical"], ["general"], ["genral.wer <= 0.2"])


def test_a_search_needs_targets():
    with pytest.raises(ConfigError, match="at least one target"):
        Objective.parse([])


def test_objective_is_the_macro_average_over_the_targets():
    objective = Objective.parse(["legal", "medical"], ["general", "legal"])
    counts = {"legal": ErrorCounts(10, 1), "medical": ErrorCounts(1000, 300), "general": ErrorCounts(10, 9)}
    judgement = objective.judge(counts, counts)
    assert judgement.objective == pytest.approx((0.1 + 0.3) / 2)
    assert judgement.feasible
    assert objective.domains == ("legal", "medical", "general")


def test_limits_are_relative_to_the_base_or_absolute():
    base = {"legal": ErrorCounts(100, 50), "general": ErrorCounts(100, 10)}
    counts = {"legal": ErrorCounts(100, 20), "general": ErrorCounts(100, 12)}
    relative = Objective.parse(["legal"], ["general"], ["general.wer <= 1.05 * base"])
    assert relative.judge(base, base).feasible
    assert relative.judge(counts, base).excess == pytest.approx(0.12 - 0.105)
    assert Objective.parse(["legal"], ["general"], ["general.wer <= 1.2 * base"]).judge(counts, base).feasible
    both = Objective.parse(["legal"], ["general"], ["general.wer <= 0.1", "legal.wer <= 0.1"])
    assert both.judge(counts, base).excess == pytest.approx(0.02 + 0.1)


@given(st.floats(0, 2), st.floats(0, 2), st.floats(1e-6, 2), st.floats(-2, 0))
def test_every_feasible_candidate_ranks_before_every_other(good: float, bad: float, excess: float, room: float):
    assert Judgement(good, (room,)).rank < Judgement(bad, (excess,)).rank


def test_a_missing_domain_and_an_infinite_rate_are_told_apart():
    @dataclass(frozen=True)
    class Broken(ErrorCounts):
        wer: float = math.nan

    objective = Objective.parse(["legal"], ["general"])
    with pytest.raises(SearchError, match="'general' was not evaluated"):
        objective.judge({"legal": ErrorCounts(1)}, {})
    with pytest.raises(CandidateError, match="'legal' is nan"):
        objective.judge({"legal": Broken(), "general": ErrorCounts(1)}, {})
