"""Every utterance, aligned for every model, with what else is known of it; and those that could not be transcribed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from asrmerge.errors import ManifestError
from asrmerge.evaluation.counts import AlignedPair, Scheme, align
from asrmerge.evaluation.hallucination import repeat_loop, text_on_silence
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.normalizers import normalizer
from asrmerge.evaluation.substitutions import substituting
from asrmerge.report.data import ReportData


@dataclass(frozen=True)
class AlignedUtterance:
    """An utterance with one alignment per model, in the report's order.

    ``loops``: by a model's place, the phrase that it repeats. ``on_silence``: models that heard words where there is no sound.
    """

    domain: str
    identifier: str
    speaker: str | None
    duration: float
    reference: str
    alignments: tuple[tuple[AlignedPair, ...], ...]
    loops: Mapping[int, str] = field(default_factory=dict, hash=False)
    on_silence: tuple[int, ...] = ()

    def errors(self, model: int) -> int:
        """Of that model."""
        return sum(pair.kind != "equal" for pair in self.alignments[model])

    def wer(self, model: int) -> float:
        """Of that model, on this utterance alone."""
        return self.errors(model) / max(len(self.reference.split()), 1)


@dataclass(frozen=True)
class FailedUtterance:
    """An utterance that some models have no transcript of; ``reasons`` are by their place. It counts in no figure."""

    domain: str
    identifier: str
    speaker: str | None
    duration: float
    reference: str
    reasons: Mapping[int, str]


def align_utterances(data: ReportData) -> tuple[AlignedUtterance, ...]:
    """All that every model transcribed, in the order of domains and files, normalised as scored.

    None unless every model has hypotheses.

    Raises:
        ManifestError: if the models have different numbers of utterances on a domain.
    """
    normalize = _normalize(data)
    return tuple(
        _aligned(domain, versions, normalize, data.scorecard.alignment)
        for domain, versions in _versions(data)
        if not any(version.error for version in versions)
    )


def failed_utterances(data: ReportData) -> tuple[FailedUtterance, ...]:
    """The others, in the same order."""
    normalize = _normalize(data)
    return tuple(
        FailedUtterance(
            domain=domain,
            identifier=versions[0].identifier,
            speaker=versions[0].speaker,
            duration=versions[0].duration,
            reference=" ".join(normalize(versions[0].text).split()),
            reasons=reasons,
        )
        for domain, versions in _versions(data)
        if (reasons := {place: version.error for place, version in enumerate(versions) if version.error})
    )


def _versions(data: ReportData) -> Iterator[tuple[str, tuple[Hypothesis, ...]]]:
    """Domain and the models' versions of every utterance."""
    if any(model.name not in data.hypotheses for model in data.models):
        return
    for domain in data.domains:
        columns = [data.hypotheses[model.name].get(domain, ()) for model in data.models]
        if len({len(column) for column in columns}) > 1:
            raise ManifestError(
                f"The models have different numbers of utterances on '{domain}'; evaluate all on the same manifest."
            )
        for versions in zip(*columns, strict=True):
            yield domain, versions


def _normalize(data: ReportData) -> Callable[[str], str]:
    return cache(substituting(normalizer(data.scorecard.normalizer), data.scorecard.substitutions))


def _aligned(domain: str, versions: Sequence[Hypothesis], normalize: Callable[[str], str], scheme: Scheme) -> AlignedUtterance:
    first = versions[0]
    reference = " ".join(normalize(first.text).split())
    loops = {place: repeat_loop(version.prediction, version.text) for place, version in enumerate(versions)}
    return AlignedUtterance(
        domain=domain,
        identifier=first.identifier,
        speaker=first.speaker,
        duration=first.duration,
        reference=reference,
        alignments=tuple(_align(reference, normalize(version.prediction), scheme) for version in versions),
        loops={place: f"{loop.phrase} ({loop.repeats}×)" for place, loop in loops.items() if loop is not None},
        on_silence=tuple(place for place, version in enumerate(versions) if text_on_silence(version)),
    )


def _align(reference: str, prediction: str, scheme: Scheme) -> tuple[AlignedPair, ...]:
    if reference == prediction:  # most of what a good model says; aligning it would take most of the time
        return tuple(AlignedPair("equal", word, word) for word in reference.split())
    return align(reference, prediction, scheme)
