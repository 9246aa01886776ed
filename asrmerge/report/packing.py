"""What the page's script reads, as small as plain JSON can be: ten thousand utterances of five models in a few megabytes.

A packed alignment is a list over the reference's words: ``3`` is three right words, ``-2`` two deleted ones,
``"~heard"`` a substitution and ``"+heard"`` an insertion.
"""

from __future__ import annotations

from collections.abc import Sequence

from asrmerge.evaluation.counts import AlignedPair
from asrmerge.evaluation.phrases import Phrases
from asrmerge.evaluation.records import SliceScore
from asrmerge.report.data import ReportData, title_of
from asrmerge.report.term_errors import said_terms
from asrmerge.report.utterances import AlignedUtterance, FailedUtterance

Packed = list[int | str]
Json = dict[str, object]


def pack(alignment: Sequence[AlignedPair]) -> Packed:
    """The browser's form of an alignment."""
    packed: Packed = []
    for pair in alignment:
        if pair.kind == "substitution":
            packed.append(f"~{pair.hypothesis}")
        elif pair.kind == "insertion":
            packed.append(f"+{pair.hypothesis}")
        else:
            _count(packed, 1 if pair.kind == "equal" else -1)
    return packed


def _count(packed: Packed, step: int) -> None:
    """Lengthen the last run if it is of the same kind."""
    if packed and isinstance(packed[-1], int) and packed[-1] * step > 0:
        packed[-1] += step
    else:
        packed.append(step)


def browser_data(data: ReportData, utterances: Sequence[AlignedUtterance], failed: Sequence[FailedUtterance]) -> Json:
    """Models and domains by their index everywhere else.

    ``utterances``: rows of domain, identifier, speaker, seconds, text, alignments, and what few have: ``loops``, ``silence``,
    ``missed`` (models that miss a term), ``audio``. ``failed``: the same without alignments, with ``reasons``. ``slices``: by
    domain and kind, rows of value, utterances, words, and per model errors and interval.
    """
    terms = {domain: Phrases.of(found) for domain, found in data.scorecard.terms.items()}
    return {
        "models": [
            {"name": model.name, "title": model.title, "role": model.role, "domain": model.domain} for model in data.models
        ],
        "domains": [{"name": domain, "title": title_of(domain)} for domain in data.domains],
        "focus": data.models.index(data.focus),
        "utterances": [_utterance(data, utterance, terms.get(utterance.domain)) for utterance in utterances],
        "failed": [[*_facts(data, utterance), {"reasons": utterance.reasons, **_audio(data, utterance)}] for utterance in failed],
        "slices": _slices(data),
    }


def _utterance(data: ReportData, utterance: AlignedUtterance, terms: Phrases | None) -> list[object]:
    row = [*_facts(data, utterance), [pack(alignment) for alignment in utterance.alignments]]
    further: Json = _audio(data, utterance)
    if utterance.loops:
        further["loops"] = utterance.loops
    if utterance.on_silence:
        further["silence"] = utterance.on_silence
    if terms and terms.find(utterance.reference.split()):
        missed = [
            place
            for place, alignment in enumerate(utterance.alignments)
            if not all(term.recognised for term in said_terms(alignment, terms))
        ]
        further |= {"missed": missed} if missed else {}
    return [*row, further] if further else row


def _facts(data: ReportData, utterance: AlignedUtterance | FailedUtterance) -> list[object]:
    place = data.domains.index(utterance.domain)
    return [place, utterance.identifier, utterance.speaker, round(utterance.duration, 2), utterance.reference]


def _audio(data: ReportData, utterance: AlignedUtterance | FailedUtterance) -> Json:
    address = data.audio.get(utterance.domain, {}).get(utterance.identifier)
    return {} if address is None else {"audio": address}


def _slices(data: ReportData) -> dict[int, dict[str, list[list[object]]]]:
    scores = [data.scorecard.models[model.name].domains for model in data.models]
    return {
        place: {
            by: [
                [value, one.utterances, one.words, [_slice(score[domain].slices[by][value]) for score in scores]]
                for value, one in values.items()
            ]
            for by, values in scores[0][domain].slices.items()
        }
        for place, domain in enumerate(data.domains)
        if scores[0][domain].slices
    }


def _slice(score: SliceScore) -> list[object]:
    return [score.errors, *(round(bound, 5) for bound in score.ci or ())]
