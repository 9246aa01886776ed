"""What a search found: every trial in order, the best of them, the λ curve; as JSON for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asrmerge.errors import SearchError
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.files import write_json
from asrmerge.search.candidate import Candidate
from asrmerge.search.objective import Counts, Judgement, Objective


@dataclass(frozen=True)
class Trial:
    """One candidate and what came of it: counts and judgement, or the error that left it without."""

    number: int
    candidate: Candidate
    counts: Counts | None
    judgement: Judgement | None
    error: str | None = None

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
        """Best lowest: feasible before infeasible before failed, the earlier of equals."""
        excess, objective = (float("inf"), float("inf")) if self.judgement is None else self.judgement.rank
        return (excess, objective, self.number)


@dataclass(frozen=True)
class CurvePoint:
    """base + λ Σ τ for λ = ``scale``, and the trial that evaluated it (at 0 the base, at 1/T the uniform average)."""

    scale: float
    trial: int


@dataclass(frozen=True)
class SearchResult:
    """A finished search. The same arguments give the same result, however often it was interrupted."""

    experts: tuple[str, ...]
    objective: Objective
    seed: int
    bounds: tuple[float, float]
    trials: tuple[Trial, ...]
    curve: tuple[CurvePoint, ...]

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
            if trial.judgement is not None and (best is None or trial.rank < best.rank):
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
            "seed": self.seed,
            "bounds": list(self.bounds),
            "best": self.best.number,
            "feasible": self.best.feasible,
            "beats": self.beats,
            "best_so_far": list(self.best_so_far),
            "curve": [
                {"scale": point.scale, "trial": point.trial, "objective": self.trials[point.trial].objective}
                for point in self.curve
            ],
            "trials": [_trial_to_json(trial) for trial in self.trials],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SearchResult:
        """What ``to_json`` gave."""
        objective = Objective.parse(content["targets"], content["watched"], content["constraints"])
        records = [_record_from_json(one) for one in content["trials"]]
        return cls(
            experts=tuple(content["experts"]),
            objective=objective,
            seed=content["seed"],
            bounds=(content["bounds"][0], content["bounds"][1]),
            trials=tuple(judged(number, *record, objective, records[0][1]) for number, record in enumerate(records)),
            curve=tuple(CurvePoint(point["scale"], point["trial"]) for point in content["curve"]),
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
    judgement = None if counts is None else objective.judge(counts, counts if base is None else base)
    return Trial(number, candidate, counts, judgement, error)


def _trial_to_json(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        **trial.candidate.to_json(),
        "objective": trial.objective,
        "feasible": trial.feasible,
        "excess": None if trial.judgement is None else trial.judgement.excess,
        "error": trial.error,
        "wer": None if trial.counts is None else {name: one.wer for name, one in trial.counts.items()},
        "counts": None if trial.counts is None else {name: asdict(one) for name, one in trial.counts.items()},
    }


def _record_from_json(content: Mapping[str, Any]) -> tuple[Candidate, Counts | None, str | None]:
    candidate = Candidate.from_json({name: content[name] for name in ("label", "kind", "method", "weights", "parameters")})
    counts = content["counts"]
    return candidate, None if counts is None else {name: ErrorCounts(**one) for name, one in counts.items()}, content["error"]
