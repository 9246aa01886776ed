"""What a report is drawn from. Error rates are fractions; only what is shown to people is in per cent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import asrmerge
from asrmerge.errors import ConfigError
from asrmerge.evaluation.gates import GateResult
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.records import Scorecard
from asrmerge.inspection.diagnosis import Diagnosis

Role = Literal["base", "expert", "joint", "uniform", "merged", "other"]
Hypotheses = Mapping[str, Mapping[str, Sequence[Hypothesis]]]  # model → domain → utterances
AudioLinks = Mapping[str, Mapping[str, str]]  # domain → utterance → address, relative to the report


@dataclass(frozen=True)
class ReportModel:
    """A model of the scorecard and the part it plays; ``domain`` is an expert's own."""

    name: str
    role: Role = "other"
    domain: str | None = None
    label: str | None = None

    @property
    def title(self) -> str:
        """What people read."""
        if self.label is not None:
            return self.label
        fixed: dict[Role, str] = {
            "base": "Base",
            "joint": "Joint fine-tune",
            "uniform": "Uniform average",
            "merged": "Merged",
        }
        if self.role == "expert":
            return f"{title_of(self.domain or self.name)} expert"
        return fixed.get(self.role, self.name)

    @property
    def phrase(self) -> str:
        """What stands within a sentence."""
        return "the merged model" if self.role == "merged" else self.title


@dataclass(frozen=True)
class SearchTrial:
    """One candidate on validation audio: a weight per expert, a word error rate per domain, and the figure that is minimised.

    ``further`` are the other figures that are minimised; of a candidate that is not ``complete``, which was dropped before it had
    heard all of the audio, the figures are expectations.
    """

    number: int
    label: str
    weights: Mapping[str, float]
    wer: Mapping[str, float]
    objective: float
    feasible: bool = True
    complete: bool = True
    further: tuple[float, ...] = ()


@dataclass(frozen=True)
class CurvePoint:
    """Base + ``scale`` × the sum of task vectors, on validation audio."""

    scale: float
    wer: Mapping[str, float]
    objective: float


@dataclass(frozen=True)
class SearchHistory:
    """A finished search.

    ``chosen`` is a trial's number, ``references`` are objectives on the same validation audio to compare with (base, uniform
    average, best expert), ``constraints`` are formulas as the user wrote them, ``failed`` counts candidates without a result.
    ``objectives`` are the names of all that is minimised; of several, ``front`` gives the numbers of the trials that no other
    beats in all, by their names. ``findings`` are sentences that hold beside the figures.
    """

    trials: tuple[SearchTrial, ...]
    chosen: int | None = None
    curve: tuple[CurvePoint, ...] = ()
    references: Mapping[str, float] = field(default_factory=dict)
    constraints: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ("macro-average WER",)
    failed: int = 0
    front: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergeInput:
    """A checkpoint that went into the merge; ``weight`` is ``None`` for the base, ``digest`` its SHA-256."""

    name: str
    source: str
    weight: float | None = None
    digest: str | None = None


@dataclass(frozen=True)
class RecipeRecord:
    """How the merged weights were made; ``text`` is the recipe file, ``output`` where the weights lie."""

    method: str
    inputs: tuple[MergeInput, ...]
    parameters: Mapping[str, object] = field(default_factory=dict)
    text: str | None = None
    digest: str | None = None
    output: str | None = None


@dataclass(frozen=True)
class DataSet:
    """Utterances of one domain that were trained on, tuned on or tested on."""

    domain: str
    split: str
    utterances: int
    minutes: float


@dataclass(frozen=True)
class RunFacts:
    """What else is needed to do it again; ``further`` are lines to show as they are (machine, duration, …)."""

    command: str | None = None
    seeds: Mapping[str, int] = field(default_factory=dict)
    data: tuple[DataSet, ...] = ()
    further: Mapping[str, str] = field(default_factory=dict)
    version: str = asrmerge.__version__


@dataclass(frozen=True)
class ReportData:
    """Everything in a report.

    ``models`` gives order and roles; all must be in the scorecard. ``family`` and ``base`` are unknown where only transcripts
    were evaluated. ``general`` names the domain that shows what the base lost. ``audio`` is what can be played, see
    :mod:`asrmerge.report.playback`. ``candidate`` names the model that the report is about. ``diagnoses`` are of merges among
    the models, by name. Without ``hypotheses``, ``search``, ``recipe``, ``run``, ``gates`` or ``diagnoses`` the parts drawn from
    them are left out.
    """

    title: str
    family: str | None
    base: str | None
    scorecard: Scorecard
    models: tuple[ReportModel, ...]
    general: str | None = None
    hypotheses: Hypotheses = field(default_factory=dict)
    search: SearchHistory | None = None
    recipe: RecipeRecord | None = None
    run: RunFacts = RunFacts()
    audio: AudioLinks = field(default_factory=dict)
    gates: tuple[GateResult, ...] = ()
    candidate: str | None = None
    diagnoses: Mapping[str, Diagnosis] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if not names:
            raise ConfigError("A report needs at least one model; name those of the scorecard to show.")
        for name in names:
            if name not in self.scorecard.models:
                known = ", ".join(self.scorecard.models)
                raise ConfigError(f"The model '{name}' is not in the scorecard; choose among {known}.")
        if self.candidate is not None and self.candidate not in names:
            shown = ", ".join(names)
            raise ConfigError(f"The report is to be about '{self.candidate}', which it does not show; choose among {shown}.")
        if self.general is not None and self.general not in self.domains:
            raise ConfigError(f"The domain '{self.general}' is not in the scorecard; choose among {', '.join(self.domains)}.")

    @property
    def domains(self) -> tuple[str, ...]:
        """Target domains, then those that stand apart from the average."""
        return domains_of(self.scorecard)

    def first(self, role: Role) -> ReportModel | None:
        """The first model in ``role``."""
        return next((model for model in self.models if model.role == role), None)

    @property
    def focus(self) -> ReportModel:
        """The model that the report is about: the candidate, else the merged one, else the best."""
        named = next((model for model in self.models if model.name == self.candidate), None)
        return named or self.first("merged") or min(self.models, key=lambda model: self.macro(model))

    def wer(self, model: ReportModel, domain: str) -> float:
        """A word error rate of the scorecard."""
        return self.scorecard.models[model.name].domains[domain].wer

    def macro(self, model: ReportModel) -> float:
        """Mean over the target domains."""
        return self.scorecard.models[model.name].macro_wer


def domains_of(scorecard: Scorecard) -> tuple[str, ...]:
    """Target domains in their order, then the others in theirs."""
    evaluated = next(iter(scorecard.models.values())).domains
    return (*scorecard.targets, *(domain for domain in evaluated if domain not in scorecard.targets))


def title_of(name: str) -> str:
    """A domain's or method's name as people read it."""
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]
