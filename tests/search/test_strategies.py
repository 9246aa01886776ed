"""Strategies that name one candidate after the other, on made-up domains whose best merge is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from spoken_world import COUNT, NAMES, SpokenWorld, search, truth

from asrmerge.errors import ConfigError, SearchError
from asrmerge.search.planning import plan_search
from asrmerge.search.registry import choose_strategy, find_strategies
from asrmerge.search.space_settings import make_space
from asrmerge.search_settings import Budget, ObjectiveSettings, SearchSettings

PLAIN = ["random", "grid", "tpe", "cmaes", "gp", "nsga2", "surface"]
ONE = ["task_arithmetic"]
FORTY = {"candidates": 40}


def test_every_strategy_is_found() -> None:
    assert set(find_strategies()) == {*PLAIN, "auto"}


@pytest.mark.parametrize("name", PLAIN)
def test_a_course_stays_in_the_space_and_in_the_budget_and_can_be_interrupted(name: str, tmp_path: Path) -> None:
    budget = {"candidates": 17}
    whole = search(SpokenWorld(), tmp_path / "whole.log", strategy=name, methods=ONE, budget=budget)
    assert len(whole.trials) == 17 and whole.spent.utterances == 17 * COUNT * len(NAMES)
    proposed = [trial for trial in whole.trials if trial.point is not None]
    assert len(proposed) == 12 and len({trial.candidate.key() for trial in whole.trials}) == 17
    assert all(0 <= weight <= 1 for trial in proposed for weight in trial.candidate.weights.values())
    with pytest.raises(KeyboardInterrupt):
        search(SpokenWorld(stop=11), tmp_path / "parts.log", strategy=name, methods=ONE, budget=budget)
    assert search(SpokenWorld(), tmp_path / "parts.log", strategy=name, methods=ONE, budget=budget) == whole
    shorter = search(SpokenWorld(), tmp_path / "parts.log", strategy=name, methods=ONE, budget={"candidates": 9})
    assert shorter.trials == whole.trials[:9]


@pytest.mark.parametrize("name", ["tpe", "cmaes", "surface"])  # a Gaussian process would take a minute
def test_strategies_that_learn_find_better_merges_than_chance(name: str, tmp_path: Path) -> None:
    best = {}
    for strategy in (name, "random"):
        found = [
            search(
                SpokenWorld(),
                tmp_path / f"{strategy}-{seed}.log",
                strategy=strategy,
                methods=ONE,
                seed=seed,
                budget={"candidates": 45},
            )
            for seed in range(2)
        ]
        best[strategy] = sum(one.best.objective for one in found)
    assert best[name] <= best["random"] + 1e-9
    assert truth(found[0].best.candidate) < 0.3


def test_cmaes_keeps_its_state_from_trial_to_trial(tmp_path: Path) -> None:
    result = search(SpokenWorld(), tmp_path / "journal.log", strategy="cmaes", methods=ONE, budget={"candidates": 60})
    proposed = [trial for trial in result.trials if trial.point is not None]
    spread = [max(trial.candidate.weights[name] for trial in part) - min(trial.candidate.weights[name] for trial in part)
              for name in NAMES for part in (proposed[:15], proposed[-15:])]  # fmt: skip
    assert sum(spread[1::2]) < 0.7 * sum(spread[::2])  # a search that began anew at each trial would not narrow


@pytest.mark.parametrize("name", ["random", "tpe", "grid", "nsga2"])
def test_several_methods_in_one_search(name: str, tmp_path: Path) -> None:
    result = search(SpokenWorld(), tmp_path / "journal.log", strategy=name, budget={"candidates": 25})
    assert {trial.candidate.method for trial in result.trials if trial.point is not None} == {"task_arithmetic", "iso_c"}
    assert result.best.objective == min(trial.objective for trial in result.trials)


@pytest.mark.parametrize("name", ["auto", "surface", "cmaes"])
def test_a_strategy_for_one_objective_refuses_several(name: str, tmp_path: Path) -> None:
    world = SpokenWorld()
    with pytest.raises(ConfigError, match=f"{name} minimises one objective, and there are 2: take nsga2"):
        search(world, tmp_path / "a.log", strategy=name, methods=ONE, further=(ObjectiveSettings(kind="worst"),))
    assert not world.asked


@pytest.mark.parametrize("name", ["nsga2", "tpe", "gp", "random", "grid"])
def test_several_objectives_give_a_front(name: str, tmp_path: Path) -> None:
    further = (ObjectiveSettings(kind="worst"),)
    result = search(SpokenWorld(), tmp_path / "a.log", strategy=name, methods=ONE, further=further, budget={"candidates": 24})
    assert all(len(trial.judgement.further) == 1 for trial in result.trials)
    assert all(trial.judgement.further[0] >= trial.judgement.objective - 0.03 for trial in result.trials)


def test_a_grid_ends_and_holds_its_corners(tmp_path: Path) -> None:
    result = search(
        SpokenWorld(), tmp_path / "journal.log", strategy={"name": "grid", "points": 8}, methods=ONE, budget={"candidates": 500}
    )
    points = {tuple(trial.candidate.weights.values()) for trial in result.trials if trial.point is not None}
    assert (1.0, 1.0, 1.0) in points and (1.0, 1.0, 0.0) in points
    assert len(points) == 8 - 1 - 3  # without the base and the three experts, which every search evaluates


@pytest.mark.parametrize(
    ("settings", "methods", "message"),
    [
        ("tpee", ONE, "did you mean 'tpe'"),
        ({"name": "tpe", "startups": 3}, ONE, "did you mean 'startup'"),
        ("cmaes", ["task_arithmetic", "iso_c"], "searches one method"),
        ("gp", {"ties": {"election": {"choices": ["sum", "count"]}}}, "cannot pick among the values of 'election'"),
        ("random", {"task_arithmetic": {"weights": 0.3}}, "nothing that the strategy random could tune"),
    ],
)
def test_what_a_strategy_cannot_search_is_refused(settings, methods, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen = choose_strategy(settings)
        chosen.strategy.check(make_space(methods, NAMES), 1, chosen.options)


def test_a_storage_of_another_strategy_is_refused(tmp_path: Path) -> None:
    search(SpokenWorld(), tmp_path / "journal.log", strategy="random", methods=ONE, budget={"candidates": 6})
    with pytest.raises(SearchError, match="a search with other strategy"):
        search(SpokenWorld(), tmp_path / "journal.log", strategy="tpe", methods=ONE, budget={"candidates": 6})


def test_a_database_keeps_the_trials(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    world = SpokenWorld()
    first = search(world, url, strategy="tpe", methods=ONE, budget={"candidates": 9})
    asked = len(world.asked)
    assert search(world, url, strategy="tpe", methods=ONE, budget={"candidates": 9}) == first
    assert {look for _, look in world.asked[asked:]} <= {0}
    with pytest.raises(ConfigError, match="cannot be opened"):
        search(world, "nodatabase://x/y", strategy="tpe", methods=ONE, budget={"candidates": 9})


@pytest.mark.parametrize(
    ("given", "strategy", "budget"),
    [
        ({}, "auto", Budget(utterances=10 * 400)),
        ({"strategy": "tpe"}, "tpe", Budget(candidates=100)),
        ({"further_objectives": ["worst"]}, "nsga2", Budget(candidates=100)),
        ({"further_objectives": ["worst"], "budget": {"minutes": 5}}, "nsga2", Budget(minutes=5)),
        ({"trials": 24, "curve": (), "soup": False}, "surface", Budget(candidates=29)),
    ],
)
def test_what_is_not_given_follows_from_the_rest(given: dict[str, Any], strategy: str, budget: Budget) -> None:
    settings = SearchSettings.model_validate({"methods": ONE, **given})
    plan = plan_search(settings, experts=NAMES, targets=NAMES, utterances=400, seed=0)
    assert (plan.strategy.strategy.name, plan.budget) == (strategy, budget)
