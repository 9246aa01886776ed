"""Made-up domains that are heard utterance by utterance: what strategies search, with losses that tell of the word errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from asrmerge.search.blocks import ALL_AT_ONCE, GROWING, AudioPlan, plan_audio
from asrmerge.search.candidate import Candidate
from asrmerge.search.counts import SearchCounts
from asrmerge.search.objective import Objective
from asrmerge.search.outcome import Asked, Outcome
from asrmerge.search.racing import Totals
from asrmerge.search.registry import choose_strategy
from asrmerge.search.result import SearchResult
from asrmerge.search.space_settings import make_space
from asrmerge.search.study import Plan, run_search
from asrmerge.search_settings import Budget
from asrmerge.speech.manifest import Utterance

NAMES = ("legal", "medical", "technical")
WORDS = 10
COUNT = 80  # utterances of a domain
BEST = {"task_arithmetic": (0.62, 0.41, 0.33), "iso_c": (0.9, 1.3, 0.7)}
DRAWS = {
    (name, index, stream): float(np.random.default_rng([sum(name.encode()), index, stream]).uniform(0.01, 0.99))
    for name in (*NAMES, "general")
    for index in range(COUNT)
    for stream in (1, 2)
}
FLOOR = {"task_arithmetic": 0.16, "iso_c": 0.12}


def rate(candidate: Candidate, domain: str) -> float:
    """The word error rate that endless audio would give: a valley per domain, deepest for iso_c."""
    method = candidate.method if candidate.method in BEST else "task_arithmetic"
    point = candidate.point(method)
    assert point is not None
    offsets = np.array([point[name] for name in NAMES]) - np.array(BEST[method])
    own = NAMES.index(domain) if domain in NAMES else 0
    pull = 0.25 * float(offsets @ offsets) + 0.3 * offsets[own] ** 2
    return (
        FLOOR[method]
        + 0.5 * (1 - math.exp(-pull))
        + (0.03 * float(np.sum(np.abs(list(point.values())))) if domain == "general" else 0.0)
    )


@dataclass
class SpokenWorld:
    """Poisson errors whose noise is shared by all candidates where ``shared`` says so, and differs by utterance."""

    domains: tuple[str, ...] = NAMES
    failing: Sequence[str] = ()
    count: int = COUNT  # utterances of a domain
    asked: list[tuple[str, int]] = field(default_factory=list)
    looked: set[int] = field(default_factory=set)  # blocks whose losses were asked for
    stop: int = 10**9

    def __post_init__(self) -> None:
        self.audio = {
            name: [Utterance(f"{name}-{index}", Path("x"), 1 + index % 7, "a", domain=name) for index in range(self.count)]
            for name in self.domains
        }
        self.totals = {name: Totals(self.count, self.count * WORDS) for name in self.domains}

    def hear(self, plan: AudioPlan) -> Any:
        def answer(asked: Asked) -> list[Outcome]:
            found = []
            for candidate, look in asked:
                if len(self.asked) == self.stop:
                    raise KeyboardInterrupt
                self.asked.append((candidate.label, look))
                found.append(self._outcome(candidate, look, plan))
            return found

        return answer

    def losses(self, plan: AudioPlan) -> Any:
        def answer(asked: Asked) -> list[Mapping[str, tuple[float, ...]] | None]:
            self.looked |= {look for _, look in asked}
            return [
                None
                if candidate.label in self.failing
                else {
                    name: tuple(3 * rate(candidate, name) ** 1.2 * self._hardness(one) for one in plan.block(name, look))
                    for name in self.domains
                }
                for candidate, look in asked
            ]

        return answer

    def _outcome(self, candidate: Candidate, look: int, plan: AudioPlan) -> Outcome:
        if candidate.label in self.failing:
            return Outcome(None, "the weights hold NaN")
        return Outcome({name: self._counts(candidate, name, plan.block(name, look)) for name in self.domains})

    def _counts(self, candidate: Candidate, domain: str, block: Sequence[Utterance]) -> tuple[SearchCounts, ...]:
        # One uniform number per utterance: what is hard for one candidate is hard for the next.
        means = WORDS * rate(candidate, domain) * np.array([self._hardness(one) for one in block])
        errors = stats.poisson.ppf([self._draw(one, 1) for one in block], means) if block else []
        return tuple(SearchCounts(WORDS, int(count)) for count in errors)

    def _hardness(self, one: Utterance) -> float:
        return 0.4 + 1.2 * self._draw(one, 2)

    @staticmethod
    def _draw(one: Utterance, stream: int) -> float:
        return DRAWS[(one.domain or "", int(one.identifier.rpartition("-")[2]), stream)]


def search(world: SpokenWorld, storage: Path, **changes: Any) -> SearchResult:
    given: dict[str, Any] = {
        "strategy": "auto", "methods": ["task_arithmetic", "iso_c"], "budget": {}, "constraints": (), "seed": 0, "losses": True,
        "soup": False, "further": (), "on_leader": None,
    } | changes  # fmt: skip
    chosen = choose_strategy(given["strategy"])
    watched = [name for name in world.domains if name not in NAMES]
    plan = Plan(
        experts=NAMES,
        space=make_space(given["methods"], NAMES),
        objective=Objective.parse(NAMES, watched, given["constraints"], further=given["further"]),
        strategy=chosen,
        budget=Budget.model_validate(given["budget"] or {"utterances": 10 * COUNT * len(world.domains)}),
        seed=given["seed"],
        soup=given["soup"],
    )
    audio = plan_audio(world.audio, seed=given["seed"], fractions=GROWING if plan.races else ALL_AT_ONCE)
    losses = world.losses(audio) if given["losses"] else None
    return run_search(
        plan, world.hear(audio), audio, world.totals,
        storage=storage, key="world", losses=losses, on_leader=given["on_leader"],
    )  # fmt: skip


def truth(candidate: Candidate) -> float:
    """The macro-average rate of endless audio."""
    return math.fsum(rate(candidate, name) for name in NAMES) / len(NAMES)
