"""Proposals by Optuna's samplers, from a study made anew of the finished trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from asrmerge.errors import ConfigError
from asrmerge.search.objective import Judgement
from asrmerge.search.proposals import MANY, quiet
from asrmerge.search.result import Point
from asrmerge.search.space import Space, distributions
from asrmerge.search.strategies._proposing import Observation

METHOD = "method"


def sample(make: Callable[[int], optuna.samplers.BaseSampler], space: Space, known: Sequence[Observation], seed: int) -> Point:
    """The next point of a sampler made with ``seed``.

    The sampler's own notes on a trial, such as the state of CMA-ES, are kept with the point and given back to it the next time.
    Infeasible trials are worth ``MANY`` plus what they exceed, so that they come behind all others, the nearest to the limits
    first; failed ones are no part of the study.
    """
    judged = [one for one in known if one.judgement is not None]
    objectives = 1 + max((len(one.judgement.further) for one in judged if one.judgement is not None), default=0)
    with quiet():
        study = optuna.create_study(sampler=make(seed), directions=["minimize"] * objectives)
        for one in judged:
            study.add_trial(_frozen(space, one))
        trial = study.ask()
        method = space.methods[0].method
        if len(space.methods) > 1:
            method = trial.suggest_categorical(METHOD, [one.method for one in space.methods])
        ranges = distributions(space.of(method))
        values = {name.partition(".")[2]: trial._suggest(name, ranges[name]) for name in ranges}
        attributes = study._storage.get_trial(trial._trial_id).system_attrs
    return Point(method, space.of(method).clip(values), dict(attributes))


def need_numbers(name: str, space: Space) -> None:
    """Refuse several methods, and choices.

    Raises:
        ConfigError: there are some.
    """
    if len(space.methods) > 1:
        raise ConfigError(f"the strategy {name} searches one method, and there are {len(space.methods)}: name one, or use tpe.")
    chosen = [one.name for one in space.methods[0].dimensions if one.choices]
    if chosen:
        raise ConfigError(f"the strategy {name} cannot pick among the values of '{chosen[0]}': fix it, or use tpe.")


def need_one_objective(name: str, objectives: int) -> None:
    """Refuse several objectives, of which the strategy would look at the first alone.

    Raises:
        ConfigError: there are several.
    """
    if objectives > 1:
        raise ConfigError(
            f"the strategy {name} minimises one objective, and there are {objectives}: take nsga2, tpe, gp, random or grid, or "
            "leave 'further_objectives' out."
        )


def need_dimensions(name: str, space: Space) -> None:
    """Refuse a space without anything to choose.

    Raises:
        ConfigError: it is one.
    """
    if len(space.methods) == 1 and not space.methods[0].dimensions:
        raise ConfigError(
            f"{space.methods[0].method} has nothing that the strategy {name} could tune: give a range, or a method."
        )


def penalised(judgement: Judgement) -> list[float]:
    """What a sampler minimises."""
    if judgement.feasible:
        return [judgement.objective, *judgement.further]
    return [MANY + judgement.excess] * (1 + len(judgement.further))


def _frozen(space: Space, one: Observation) -> optuna.trial.FrozenTrial:
    own = distributions(space.of(one.method))
    ranges: dict[str, BaseDistribution] = dict(own)
    params: dict[str, Any] = {name: one.values[name.partition(".")[2]] for name in own}
    if len(space.methods) > 1:
        ranges[METHOD] = CategoricalDistribution([found.method for found in space.methods])
        params[METHOD] = one.method
    assert one.judgement is not None
    attributes: Mapping[str, Any] = one.attributes
    return optuna.trial.create_trial(
        params=params, distributions=ranges, values=penalised(one.judgement), system_attrs=dict(attributes)
    )
