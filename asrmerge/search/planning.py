"""From settings to a plan, everything checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from asrmerge.search.budget import FULL_EVALUATIONS
from asrmerge.search.candidate import fixed_candidates
from asrmerge.search.objective import Objective
from asrmerge.search.registry import choose_strategy
from asrmerge.search.space_settings import make_space
from asrmerge.search.study import Plan
from asrmerge.search_settings import Budget, SearchSettings

PLAIN_CANDIDATES = 100  # what other strategies evaluate unless given, as mergekit-evolve does


def plan_search(
    settings: SearchSettings,
    *,
    experts: Sequence[str],
    targets: Sequence[str],
    watched: Sequence[str] = (),
    utterances: int,
    seed: int,
    known_groups: Sequence[str] | None = None,
    known_terms: Iterable[str] | None = None,
) -> Plan:
    """The plan that these settings come to, everything checked.

    Args:
        utterances: of the validation audio, all domains together.
        known_groups: of the model.
        known_terms: domains whose terms are known.

    Raises:
        ConfigError: something cannot be used, named with its remedy.
    """
    bounds = None if settings.maximum_coefficient is None else (0.0, settings.maximum_coefficient)
    space = make_space(
        settings.methods, experts, groups=settings.groups, depth=settings.depth, known_groups=known_groups, bounds=bounds
    )
    objective = Objective.parse(
        targets,
        watched,
        settings.constraints,
        settings.objective,
        further=settings.further_objectives,
        experts=experts,
        known_terms=known_terms,
    )
    usual = "nsga2" if objective.further else "auto" if settings.trials is None else "surface"
    chosen = choose_strategy(settings.strategy or usual)
    chosen.strategy.check(space, 1 + len(objective.further), chosen.options)
    plan = Plan(
        tuple(experts), space, objective, chosen, settings.budget, seed, tuple(sorted(set(settings.curve))), settings.soup
    )
    return replace(plan, budget=_budget(settings, plan, utterances))


def _budget(settings: SearchSettings, plan: Plan, utterances: int) -> Budget:
    if settings.trials is not None:
        soups = max(0, len(plan.experts) - 2) if settings.soup else 0  # at least; one of all experts is the uniform average
        methods = [one.method for one in plan.space.methods]
        fixed = len(fixed_candidates(plan.experts, plan.curve, methods)) + soups
        return settings.budget.model_copy(update={"candidates": fixed + settings.trials})
    if not settings.budget.is_bounded:
        return Budget(utterances=FULL_EVALUATIONS * utterances) if plan.races else Budget(candidates=PLAIN_CANDIDATES)
    return settings.budget
