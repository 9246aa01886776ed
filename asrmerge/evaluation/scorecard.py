"""Scorecards: models × domains, with counts, intervals and paired comparisons; rates and differences are fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from asrmerge.errors import AsrmergeError, ConfigError, ManifestError
from asrmerge.evaluation import normalizers
from asrmerge.evaluation.bootstrap import Unit, bootstrap_interval, paired_bootstrap
from asrmerge.evaluation.counts import ErrorCounts, count_errors
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.normalizers import Normalizer
from asrmerge.files import write_text

Hypotheses = Mapping[str, Mapping[str, Sequence[Hypothesis]]]  # model → domain → hypotheses
Counts = Mapping[str, Mapping[str, Sequence[ErrorCounts]]]


class Record(BaseModel):
    """Unchangeable, and strict about its fields when read from a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DomainScore(Record):
    """One model on one domain: pooled over the utterances."""

    utterances: int
    words: int
    substitutions: int
    deletions: int
    insertions: int
    wer: float
    ci: tuple[float, float]
    resampled_by: Unit


class ModelScore(Record):
    """One model: its domains, and the mean of the target domains' word error rates."""

    domains: dict[str, DomainScore]
    macro_wer: float


class DomainComparison(Record):
    """``model``'s word error rate less ``reference``'s on one domain (below zero: better), by the paired bootstrap."""

    model: str
    reference: str
    domain: str
    difference: float
    ci: tuple[float, float]
    probability_of_improvement: float
    resampled_by: Unit


class Scorecard(Record):
    """Every figure of an evaluation, and what is needed to make them again from the hypotheses."""

    normalizer: str
    seed: int
    level: float
    samples: int
    targets: tuple[str, ...]
    models: dict[str, ModelScore]
    comparisons: tuple[DomainComparison, ...]

    def to_json(self) -> str:
        """Indented JSON."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Scorecard:
        """The reverse of :meth:`to_json`; raises pydantic's ``ValidationError``, a ``ValueError``."""
        return cls.model_validate_json(text)

    def write(self, path: Path | str) -> None:
        """Write the scorecard as JSON, atomically."""
        write_text(Path(path), self.to_json())

    @classmethod
    def read(cls, path: Path | str) -> Scorecard:
        """The scorecard in ``path``.

        Raises:
            AsrmergeError: if the file is missing or is not a scorecard.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise AsrmergeError(f"{path}: there is no such file; run the evaluation first.") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "JSON"
            raise AsrmergeError(f"{path}: not a scorecard ({where}: {first['msg']}); run the evaluation again.") from error


def score(hypotheses: Sequence[Hypothesis], normalize: Normalizer) -> tuple[ErrorCounts, ...]:
    """Every utterance's errors, both texts normalised."""
    return tuple(count_errors(normalize(hypothesis.text), normalize(hypothesis.prediction)) for hypothesis in hypotheses)


def build_scorecard(
    hypotheses: Hypotheses,
    *,
    normalizer: str,
    targets: Sequence[str],
    candidate: str | None = None,
    references: Sequence[str] | None = None,
    seed: int,
    level: float = 0.95,
    samples: int = 1000,
) -> Scorecard:
    """Score ``hypotheses`` (model → domain → utterances).

    Args:
        normalizer: the text normaliser, by name.
        targets: the domains that ``macro_wer`` is the mean of; others, such as the general one, are shown apart.
        candidate: the model that is compared with each of ``references`` (all other models, unless given) on every domain.
        seed, level, samples: of the bootstrap.

    Raises:
        ConfigError: if a named model or domain was not evaluated, or the normaliser is unknown.
        ManifestError: if two models were not evaluated on the same utterances.
    """
    normalize = cache(normalizers.normalizer(normalizer))  # every model repeats the same references
    _check_names(hypotheses, targets, [] if candidate is None else [candidate, *(references or [])])
    _check_same_utterances(hypotheses)
    counts = {
        model: {domain: score(utterances, normalize) for domain, utterances in domains.items()}
        for model, domains in hypotheses.items()
    }
    speakers = {
        domain: [hypothesis.speaker for hypothesis in utterances]
        for domain, utterances in next(iter(hypotheses.values())).items()
    }
    bootstrap = Bootstrap(level=level, samples=samples, seed=seed)
    against = hypotheses if references is None else references
    pairs = [] if candidate is None else [(candidate, name) for name in against if name != candidate]
    return Scorecard(
        normalizer=normalizer,
        seed=seed,
        level=level,
        samples=samples,
        targets=tuple(targets),
        models={model: _model_score(domains, speakers, targets, bootstrap) for model, domains in counts.items()},
        comparisons=tuple(
            _compare(counts, model, reference, domain, speakers[domain], bootstrap)
            for model, reference in pairs
            for domain in speakers
        ),
    )


class Bootstrap(Record):
    """How intervals are drawn; see :func:`~asrmerge.evaluation.bootstrap.bootstrap_interval`."""

    level: float
    samples: int
    seed: int


def _model_score(
    counts: Mapping[str, Sequence[ErrorCounts]],
    speakers: Mapping[str, Sequence[str | None]],
    targets: Sequence[str],
    bootstrap: Bootstrap,
) -> ModelScore:
    domains = {domain: _domain_score(counts[domain], speakers[domain], bootstrap) for domain in speakers}
    return ModelScore(domains=domains, macro_wer=sum(domains[target].wer for target in targets) / len(targets))


def _domain_score(counts: Sequence[ErrorCounts], speakers: Sequence[str | None], bootstrap: Bootstrap) -> DomainScore:
    total = sum(counts, ErrorCounts())
    interval = bootstrap_interval(
        [count.errors for count in counts],
        [count.words for count in counts],
        level=bootstrap.level,
        samples=bootstrap.samples,
        seed=bootstrap.seed,
        clusters=speakers,
    )
    return DomainScore(
        utterances=len(counts),
        words=total.words,
        substitutions=total.substitutions,
        deletions=total.deletions,
        insertions=total.insertions,
        wer=total.wer,
        ci=(interval.low, interval.high),
        resampled_by=interval.resampled_by,
    )


def _compare(
    counts: Counts, model: str, reference: str, domain: str, speakers: Sequence[str | None], bootstrap: Bootstrap
) -> DomainComparison:
    comparison = paired_bootstrap(
        [count.errors for count in counts[model][domain]],
        [count.errors for count in counts[reference][domain]],
        [count.words for count in counts[model][domain]],
        level=bootstrap.level,
        samples=bootstrap.samples,
        seed=bootstrap.seed,
        clusters=speakers,
    )
    return DomainComparison(
        model=model,
        reference=reference,
        domain=domain,
        difference=comparison.difference,
        ci=(comparison.low, comparison.high),
        probability_of_improvement=comparison.probability_of_improvement,
        resampled_by=comparison.resampled_by,
    )


def _check_names(hypotheses: Hypotheses, targets: Sequence[str], models: Sequence[str]) -> None:
    if not hypotheses or not targets:
        raise ConfigError("A scorecard needs at least one model and one target domain; evaluate some.")
    for model in models:
        if model not in hypotheses:
            raise ConfigError(f"The model '{model}' was not evaluated; choose one of {', '.join(hypotheses)}.")
    first = next(iter(hypotheses))
    for model, domains in hypotheses.items():
        if missing := sorted(({*targets} | hypotheses[first].keys()) - domains.keys()):
            raise ConfigError(f"The model '{model}' was not evaluated on {', '.join(missing)}; evaluate it there too.")
        if further := sorted(domains.keys() - hypotheses[first].keys()):
            raise ConfigError(f"The model '{first}' was not evaluated on {', '.join(further)}; evaluate it there too.")


def _check_same_utterances(hypotheses: Hypotheses) -> None:
    """References and hypotheses that are filtered out of step make rates of different sets look comparable."""
    first, *others = hypotheses
    for domain, expected in hypotheses[first].items():
        if not expected:
            raise ManifestError(f"There are no utterances of '{domain}'; check its test manifest.")
        for model in others:
            found = hypotheses[model][domain]
            if len(found) != len(expected):
                raise ManifestError(
                    f"On '{domain}', '{first}' has {len(expected)} utterances and '{model}' has {len(found)}; "
                    "evaluate both on the same manifest."
                )
            for one, other in zip(expected, found, strict=True):
                if (one.identifier, one.text) != (other.identifier, other.text):
                    raise ManifestError(
                        f"On '{domain}', '{first}' has utterance '{one.identifier}' where '{model}' has '{other.identifier}', or "
                        "their reference texts differ; evaluate both on the same manifest."
                    )
