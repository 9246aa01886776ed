from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.errors import ConfigError, SearchError
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.search import CandidateError, Judgement, Objective, parse_constraint
from asrmerge.search.counts import SearchCounts
from asrmerge.search.objective import References
from asrmerge.search_settings import ObjectiveSettings
from asrmerge.validation import validate

DOMAINS = ("legal", "medical", "general")
NONE = References({}, {})


@pytest.mark.parametrize(
    ("text", "bound", "relative"),
    [
        ("general.wer <= 1.05 * base", 1.05, True),
        ("general.wer<=1.05*base", 1.05, True),
        ("general.wer <= base * 1.05", 1.05, True),
        (" general.wer <= base ", 1.0, True),
        ("general.wer <= 1.1 * expert", 1.1, True),
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
    judgement = objective.judge(counts, NONE)
    assert judgement.objective == pytest.approx((0.1 + 0.3) / 2)
    assert judgement.feasible
    assert objective.domains == ("legal", "medical", "general")


def test_limits_are_relative_to_the_base_or_absolute():
    of_base = {"legal": ErrorCounts(100, 50), "general": ErrorCounts(100, 10)}
    base = References(of_base, {"legal": ErrorCounts(100, 18)})
    counts = {"legal": ErrorCounts(100, 20), "general": ErrorCounts(100, 12)}
    relative = Objective.parse(["legal"], ["general"], ["general.wer <= 1.05 * base"])
    assert relative.judge(of_base, base).feasible
    assert relative.judge(counts, base).excess == pytest.approx(0.12 - 0.105)
    assert Objective.parse(["legal"], ["general"], ["general.wer <= 1.2 * base"]).judge(counts, base).feasible
    both = Objective.parse(["legal"], ["general"], ["general.wer <= 0.1", "legal.wer <= 0.1"])
    assert both.judge(counts, base).excess == pytest.approx(0.02 + 0.1)
    home = Objective.parse(["legal"], ["general"], ["legal.wer <= 1.05 * expert"], experts=["legal"])
    assert home.judge(counts, base).excess == pytest.approx(0.2 - 0.189) and home.needs_experts and not home.needs_base
    with pytest.raises(ConfigError, match="no expert called 'general'"):
        Objective.parse(["legal"], ["general"], ["general.wer <= 1.05 * expert"], experts=["legal"])


def test_term_recall_is_bounded_from_below():
    counts = {"legal": SearchCounts(100, 20, terms=10, found=8)}
    base = References({"legal": SearchCounts(100, 50, terms=10, found=9)}, {})
    assert Objective.parse(["legal"], [], ["legal.terms >= 0.7"]).judge(counts, base).feasible
    assert Objective.parse(["legal"], [], ["legal.terms >= 0.9"]).judge(counts, base).excess == pytest.approx(0.1)
    assert Objective.parse(["legal"], [], ["legal.terms >= base"]).judge(counts, base).excess == pytest.approx(0.1)
    for text in ("legal.terms <= 0.9", "legal.wer >= 0.9"):
        with pytest.raises(ConfigError, match="bounds the wrong side"):
            parse_constraint(text, DOMAINS)
    with pytest.raises(ConfigError, match="needs the terms of 'legal'"):
        Objective.parse(["legal"], [], ["legal.terms >= 0.7"], known_terms=[])


def test_objectives_by_hand():
    counts = {"legal": SearchCounts(100, 20, terms=10, found=8), "medical": SearchCounts(200, 20, terms=4, found=1)}
    references = References({}, {"legal": ErrorCounts(100, 10), "medical": ErrorCounts(200, 0)})

    def value(**settings) -> float:
        chosen = validate(ObjectiveSettings, settings, "objective")
        return Objective.parse(["legal", "medical"], settings=chosen, experts=["legal", "medical"]).value(counts, references)

    assert value() == pytest.approx(0.15)
    assert value(kind="weighted", traffic={"legal": 3, "medical": 1}) == pytest.approx(0.175)
    assert value(relative=True) == pytest.approx((2 + 0.1 * 200) / 2)  # an expert without errors counts as one with one
    assert value(term_weight=0.25) == pytest.approx((0.75 * 0.2 + 0.25 * 0.2 + 0.75 * 0.1 + 0.25 * 0.75) / 2)
    assert 0.2 - math.log(2) / 50 <= value(kind="worst") <= 0.2
    assert ObjectiveSettings.model_validate("relative") == ObjectiveSettings(relative=True)


@given(
    st.lists(st.tuples(st.floats(0.02, 1.5), st.floats(0.0, 1.0)), min_size=1, max_size=4),
    st.sampled_from(["macro", "worst", "weighted"]),
    st.booleans(),
    st.floats(0, 1),
)
def test_slopes_are_the_derivatives(rates, kind: str, relative: bool, term_weight: float):
    names = [f"d{index}" for index in range(len(rates))]
    traffic = {name: 1.0 + index for index, name in enumerate(names)} if kind == "weighted" else {}
    settings = ObjectiveSettings(kind=kind, relative=relative, term_weight=term_weight, traffic=traffic, sharpness=7.0)
    objective = Objective.parse(names, settings=settings, experts=names)
    many = 10**9

    def counts(change: dict[str, tuple[float, float]] | None = None) -> dict[str, SearchCounts]:
        found = {}
        for name, (wer, missed) in zip(names, rates, strict=True):
            by = (change or {}).get(name, (0.0, 0.0))
            errors, left = round(many * (wer + by[0])), round(many * (missed + by[1]))
            found[name] = SearchCounts(many, errors, terms=many, found=many - left)
        return found

    references = References({}, {name: ErrorCounts(100, 20 + index) for index, name in enumerate(names)})
    slopes = objective.slopes(counts(), references)
    step = 1e-4
    for name in names:
        for index in (0, 1):
            by = (step, 0.0) if index == 0 else (0.0, step)
            up, down = (objective.value(counts({name: (by[0] * sign, by[1] * sign)}), references) for sign in (1, -1))
            assert slopes[name][index] == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"traffic": {"legal": 1.0}}, "no other kind takes it"),
        ({"kind": "weighted"}, "needs 'traffic'"),
        ({"kind": "weighted", "traffic": {"legal": -1.0}}, "must not be negative"),
        ({"kind": "weighted", "traffic": {"lega": 1.0}}, "did you mean 'legal'"),
        ({"relative": True}, "no expert called 'medical'"),
        ({"term_weight": 0.5}, "no target domain has any"),
        ({"kind": "best"}, "'kind' is 'best'"),
    ],
)
def test_objectives_that_cannot_be_computed_are_refused(settings, message: str):
    with pytest.raises(ConfigError, match=message):
        chosen = validate(ObjectiveSettings, settings, "objective")
        Objective.parse(["legal", "medical"], settings=chosen, experts=["legal"], known_terms=())


@given(st.floats(0, 2), st.floats(0, 2), st.floats(1e-6, 2), st.floats(-2, 0))
def test_every_feasible_candidate_ranks_before_every_other(good: float, bad: float, excess: float, room: float):
    assert Judgement(good, (room,)).rank < Judgement(bad, (excess,)).rank


def test_a_missing_domain_and_an_infinite_rate_are_told_apart():
    @dataclass(frozen=True)
    class Broken(ErrorCounts):
        wer: float = math.nan

    objective = Objective.parse(["legal"], ["general"])
    with pytest.raises(SearchError, match="'general' was not evaluated"):
        objective.judge({"legal": ErrorCounts(1)}, NONE)
    with pytest.raises(CandidateError, match="'legal' is nan"):
        objective.judge({"legal": Broken(), "general": ErrorCounts(1)}, NONE)
