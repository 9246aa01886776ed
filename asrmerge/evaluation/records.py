"""The records that a scorecard is made of: every figure of an evaluation, as JSON both ways; rates are fractions.

The path to a word error rate: ``models → <model> → domains → <domain> → {words, substitutions, deletions, insertions, wer, ci}``
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from asrmerge.errors import AsrmergeError
from asrmerge.evaluation.bootstrap import Unit
from asrmerge.evaluation.counts import Scheme
from asrmerge.files import write_text

Range = tuple[float, float]
HIGHER_IS_BETTER = frozenset({"harmonic_accuracy", "retention", "gap_closed", "rtfx"})  # the figures that no metric gives


class Record(BaseModel):
    """Unchangeable, and strict about its fields when read from a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(Record):
    """A value and its bootstrap interval; ``None`` where the set has nothing to measure, such as no terms."""

    value: float | None
    ci: Range | None = None


class MetricRecord(Record):
    """What is needed to show a metric: its title, and which way is better."""

    title: str
    higher_is_better: bool = False


class SliceScore(Record):
    """The word error rate of a part of a domain; without an interval where its units are too few to draw from."""

    utterances: int
    words: int
    errors: int
    wer: float
    ci: Range | None = None


class DomainScore(Record):
    """One model on one domain, pooled over ``utterances``; ``failed`` ones, without a transcript by some model, are left out.

    ``metrics``: the further metrics by name. ``slices``: by what (``speaker``, ``duration``, a manifest's field), then by value.
    ``seconds``: of audio. ``rtfx``: seconds of audio decoded in a second. ``retention``: the share of the base's accuracy that is
    kept, on the general set. ``gap_closed``: the share of the way from the base's word error rate to the domain's expert's.
    """

    utterances: int
    failed: int = 0
    words: int
    substitutions: int
    deletions: int
    insertions: int
    wer: float
    ci: Range
    resampled_by: Unit
    metrics: dict[str, Figure] = {}
    slices: dict[str, dict[str, SliceScore]] = {}
    repeat_loops: int = 0
    text_on_silence: int = 0
    seconds: float = 0.0
    rtfx: float | None = None
    retention: Figure | None = None
    gap_closed: Figure | None = None


class ModelScore(Record):
    """One model: its domains, and over the target domains the mean word error rate, the harmonic mean of the accuracies
    and the domain with the highest word error rate."""

    domains: dict[str, DomainScore]
    macro_wer: float
    macro_ci: Range
    harmonic_accuracy: Figure
    worst_domain: str
    worst_wer: float
    worst_ci: Range


class PairedTestRecord(Record):
    """A :class:`~asrmerge.evaluation.paired_tests.PairedTest` of two models on one domain, over ``units`` of ``unit``.

    ``p_value`` is two-sided; ``p_holm`` is corrected for the number of domains that the two were compared on.
    """

    name: str
    statistic: float
    p_value: float
    p_holm: float
    units: int
    unit: Literal["segment", "speaker", "utterance"] = "utterance"


class DomainComparison(Record):
    """``model``'s word error rate less ``reference``'s on one domain (below zero: better), by the paired bootstrap.

    ``detectable`` is the smallest difference that this set could have shown; ``p_holm`` and each test's are corrected for the
    number of domains that the two models were compared on.
    """

    model: str
    reference: str
    domain: str
    difference: float
    ci: Range
    probability_of_improvement: float
    p_value: float
    p_holm: float
    resampled_by: Unit
    detectable: float | None = None
    tests: dict[str, PairedTestRecord] = {}


class MacroComparison(Record):
    """``model``'s summary less ``reference``'s: of the mean word error rate over the target domains, or of the worst one."""

    figure: Literal["macro", "worst_domain"]
    model: str
    reference: str
    difference: float
    ci: Range
    probability_of_improvement: float
    p_value: float


class Scorecard(Record):
    """Every figure of an evaluation, and what is needed to make them again from the hypotheses.

    ``normalizer`` and ``substitutions`` give the texts that were compared, ``terms`` each domain's terms in that form.
    ``base``, ``general`` and ``experts`` (domain → model) are what retention and the closed gap were measured against.
    """

    normalizer: str
    substitutions: dict[str, str] = {}
    alignment: Scheme = "levenshtein"
    seed: int
    level: float
    samples: int
    targets: tuple[str, ...]
    base: str | None = None
    general: str | None = None
    experts: dict[str, str] = {}
    terms: dict[str, tuple[str, ...]] = {}
    metrics: dict[str, MetricRecord] = {}
    models: dict[str, ModelScore]
    comparisons: tuple[DomainComparison, ...] = ()
    macro_comparisons: tuple[MacroComparison, ...] = ()

    @property
    def higher_is_better(self) -> frozenset[str]:
        """The figures of which more is better; all others are errors."""
        return HIGHER_IS_BETTER | {name for name, metric in self.metrics.items() if metric.higher_is_better}

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
        except (UnicodeDecodeError, ValidationError) as error:
            raise AsrmergeError(f"{path}: not a scorecard ({_first_problem(error)}); run the evaluation again.") from error


def _first_problem(error: UnicodeDecodeError | ValidationError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'JSON'}: {first['msg']}"
