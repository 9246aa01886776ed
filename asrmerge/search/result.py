"""What a search found: every trial in order, the best of them, the λ curve; as JSON for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from asrmerge.errors import SearchError
from asrmerge.files import write_json
from asrmerge.search.budget import Spent
from asrmerge.search.candidate import Candidate
from asrmerge.search.counts import SearchCounts
from asrmerge.search.objective import Counts, Judgement, Objective, ObjectiveSettings, References


@dataclass(frozen=True)
class Point:
    """Where a strategy proposed a candidate: the method, its dimensions' values, and what the strategy remembers of it."""

    method: str
    values: Mapping[str, Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values; ``Point(**…)`` gives it back."""
        return {"method": self.method, "values": dict(self.values), "attributes": dict(self.attributes)}


@dataclass(frozen=True)
class Trial:
    """One candidate and what came of it: counts and judgement, or the error that left it without.

    Attributes:
        counts: by domain; of a candidate that has not heard all of the audio, with the rates expected on all of it.
        heard: utterances; None where nobody counted.
        complete: whether it has heard all of the audio. Others are no candidates for the best.
        note: why it has not.
        behind: of one that has not, its objective less that of the search's best on the audio that both have heard, a fraction:
            a better guess than the difference of their objectives, which are of different audio.
        point: where it was proposed.
    """

    number: int
    candidate: Candidate
    counts: Counts | None
    judgement: Judgement | None
    error: str | None = None
    heard: int | None = None
    complete: bool = True
    note: str = ""
    behind: float | None = None
    point: Point | None = field(default=None, compare=False)  # for the strategy alone

    @property
    def objective(self) -> float | None:
        """Macro-average WER over the targets, as a fraction; ``None`` if the trial failed."""
        return None if self.judgement is None else self.judgement.objective

    @property
    def feasible(self) -> bool:
        """Whether it was evaluated and keeps every constraint."""
        return self.judgement is not None and self.judgement.feasible

    @property
    def rank(self) -> tuple[float, float, int]:
        """Best lowest: feasible before infeasible before incomplete before failed, the earlier of equals."""
        excess, objective = (float("inf"), float("inf")) if self.judgement is None else self.judgement.rank
        return (excess if self.complete else float("inf"), objective, self.number)


@dataclass(frozen=True)
class Confirmation:
    """The best candidate less another on the same audio, by the objective (a fraction), from a paired bootstrap.

    ``complete`` says whether the other has heard all of the audio; else it had been dropped, and only what it heard counts.
    """

    other: str
    difference: float
    low: float
    high: float
    p_value: float
    complete: bool

    @property
    def better(self) -> bool:
        """Whether the best is better beyond chance."""
        return self.high < 0


@dataclass(frozen=True)
class LossRanking:
    """Spearman's rank correlation of the teacher-forced loss and the word errors over so many merges, and the loss's cost."""

    correlation: float
    candidates: int
    utterances: int


@dataclass(frozen=True)
class ExpectedOptimism:
    """How much lower the best's objective is expected to be on the audio that chose it than on new audio; a fraction."""

    value: float
    standard_error: float
    candidates: int


@dataclass(frozen=True)
class CurvePoint:
    """base + λ Σ τ for λ = ``scale``, and the trial that evaluated it (at 0 the base, at 1/T the uniform average)."""

    scale: float
    trial: int


@dataclass(frozen=True)
class SearchResult:
    """A finished search. The same arguments give the same result, however often it was interrupted.

    Attributes:
        space: as :meth:`~asrmerge.search.space.Space.to_json` has it.
        strategy: its name and options.
        spent: on the course, interrupted runs included; no part of what makes results equal.
        confirmed: the best against what it was measured with, on the same audio.
        ranking: how well the teacher-forced loss ranked candidates by their word errors, where a strategy used it.
        optimism: how much better the best is expected to look on the audio that chose it.
        picked: number of the trial that the user picked from a front.
    """

    experts: tuple[str, ...]
    objective: Objective
    seed: int
    space: Mapping[str, Any]
    trials: tuple[Trial, ...]
    curve: tuple[CurvePoint, ...] = ()
    strategy: Mapping[str, Any] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent, compare=False)
    confirmed: tuple[Confirmation, ...] = ()
    ranking: LossRanking | None = None
    optimism: ExpectedOptimism | None = None
    picked: int | None = None

    @property
    def chosen(self) -> Trial:
        """What is merged: the point of the front that was picked, else the best."""
        return self.best if self.picked is None else self.trials[self.picked]

    @property
    def best(self) -> Trial:
        """The best candidate of all, the base, the experts and the uniform average included."""
        return min(self.trials, key=lambda trial: trial.rank)

    @property
    def beats(self) -> dict[str, bool]:
        """Whether the best tuned merge is better than the base, the uniform average, and every single expert."""
        tuned = min((trial.rank[:2] for trial in self.trials if trial.candidate.tuned), default=(float("inf"),) * 2)
        names = {"base": "base", "uniform": "uniform", "expert": "experts"}
        return {
            name: all(tuned < trial.rank[:2] for trial in self.trials if trial.candidate.kind == kind)
            for kind, name in names.items()
        }

    @property
    def best_so_far(self) -> tuple[int | None, ...]:
        """After each trial, the number of the best so far; ``None`` while all have failed."""
        course: list[int | None] = []
        best: Trial | None = None
        for trial in self.trials:
            if trial.judgement is not None and trial.complete and (best is None or trial.rank < best.rank):
                best = trial
            course.append(None if best is None else best.number)
        return tuple(course)

    def to_json(self) -> dict[str, Any]:
        """As plain values; ``from_json`` gives it back. WERs are fractions; ``best``, ``beats`` and the like are for readers."""
        return {
            "experts": list(self.experts),
            "targets": list(self.objective.targets),
            "watched": list(self.objective.watched),
            "constraints": [one.text for one in self.objective.constraints],
            "objectives": [one.model_dump(mode="json") for one in (self.objective.settings, *self.objective.further)],
            "strategy": dict(self.strategy),
            "seed": self.seed,
            "space": dict(self.space),
            "best": self.best.number,
            "picked": self.picked,
            "feasible": self.best.feasible,
            "beats": self.beats,
            "best_so_far": list(self.best_so_far),
            "confirmed": [asdict(one) for one in self.confirmed],
            "loss_ranking": None if self.ranking is None else asdict(self.ranking),
            "optimism": None if self.optimism is None else asdict(self.optimism),
            "utterances_decoded": self.spent.utterances,
            "losses_computed": self.spent.losses,
            "curve": [
                {"scale": point.scale, "trial": point.trial, "objective": self.trials[point.trial].objective}
                for point in self.curve
            ],
            "trials": [_trial_to_json(trial) for trial in self.trials],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SearchResult:
        """What ``to_json`` gave."""
        settings = [ObjectiveSettings.model_validate(one) for one in content["objectives"]]
        ranking, optimism = content["loss_ranking"], content["optimism"]
        return cls(
            experts=tuple(content["experts"]),
            objective=Objective.parse(
                content["targets"], content["watched"], content["constraints"], settings[0], further=settings[1:]
            ),
            seed=content["seed"],
            space=content["space"],
            trials=tuple(_trial_from_json(one) for one in content["trials"]),
            curve=tuple(CurvePoint(point["scale"], point["trial"]) for point in content["curve"]),
            strategy=content["strategy"],
            spent=Spent(len(content["trials"]), content["utterances_decoded"], content["losses_computed"]),
            confirmed=tuple(Confirmation(**one) for one in content["confirmed"]),
            ranking=None if ranking is None else LossRanking(**ranking),
            optimism=None if optimism is None else ExpectedOptimism(**optimism),
            picked=content["picked"],
        )

    def write(self, path: Path) -> None:
        """Write it as JSON, atomically; equal results give equal bytes."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> SearchResult:
        """Read what ``write`` wrote.

        Raises:
            SearchError: the file is missing or something else.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise SearchError(f"{path} is no result of a search ({error}): run the search again.") from error


def judged(
    number: int, candidate: Candidate, counts: Counts | None, error: str | None, objective: Objective, base: Counts | None
) -> Trial:
    """The trial of a candidate with these counts; ``base`` are the base's own, ``None`` where it failed."""
    references = References(counts or {} if base is None else base, {})
    return Trial(number, candidate, counts, None if counts is None else objective.judge(counts, references), error)


def _trial_to_json(trial: Trial) -> dict[str, Any]:
    judgement = trial.judgement
    return {
        "number": trial.number,
        **trial.candidate.to_json(),
        "objective": trial.objective,
        "further": None if judgement is None else list(judgement.further),
        "feasible": trial.feasible,
        "excess": None if judgement is None else judgement.excess,
        "excesses": None if judgement is None else list(judgement.excesses),
        "error": trial.error,
        "heard": trial.heard,
        "complete": trial.complete,
        "note": trial.note,
        "behind": trial.behind,
        "wer": None if trial.counts is None else {name: one.wer for name, one in trial.counts.items()},
        "counts": None if trial.counts is None else {name: asdict(one) for name, one in trial.counts.items()},
    }


def _trial_from_json(content: Mapping[str, Any]) -> Trial:
    names = ("label", "kind", "method", "weights", "parameters", "groups")
    candidate = Candidate.from_json({name: content[name] for name in names if name in content})
    counts, judgement = content["counts"], None
    if content["objective"] is not None:
        judgement = Judgement(content["objective"], tuple(content["excesses"]), tuple(content["further"]))
    return Trial(
        number=content["number"],
        candidate=candidate,
        counts=None if counts is None else {name: SearchCounts(**one) for name, one in counts.items()},
        judgement=judgement,
        error=content["error"],
        heard=content["heard"],
        complete=content["complete"],
        note=content["note"],
        behind=content.get("behind"),
    )
