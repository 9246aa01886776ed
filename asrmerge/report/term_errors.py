"""The terms of a domain that the report's main model misses, and what it heard instead."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from asrmerge.evaluation.counts import AlignedPair
from asrmerge.evaluation.phrases import Occurrence, Phrases
from asrmerge.report.data import ReportData, title_of
from asrmerge.report.utterances import AlignedUtterance

MOST = 12  # missed terms of each domain
HEARD = 3  # wordings heard instead of each


@dataclass(frozen=True)
class SaidTerm:
    """A term that was said: whether it was recognised, and the words that stand in its place."""

    phrase: str
    recognised: bool
    heard: str


@dataclass(frozen=True)
class MissedTerm:
    """A term, how often it was said and recognised, and what was heard instead, the most frequent first (``""``: nothing)."""

    phrase: str
    said: int
    recognised: int
    heard: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class TermDigest:
    """A domain's terms: how often any was said and recognised, those missed most often first."""

    domain: str
    title: str
    said: int
    recognised: int
    missed: tuple[MissedTerm, ...]


def term_digests(data: ReportData, utterances: Sequence[AlignedUtterance]) -> tuple[TermDigest, ...]:
    """Per domain with terms, what the report's main model makes of them; none where no term was said."""
    model = data.models.index(data.focus)
    found = []
    for domain in data.domains:
        terms = Phrases.of(data.scorecard.terms.get(domain, ()))
        said = [
            term
            for utterance in utterances
            if terms and utterance.domain == domain
            for term in said_terms(utterance.alignments[model], terms)
        ]
        if said:
            found.append(_digest(domain, said))
    return tuple(found)


def said_terms(alignment: Sequence[AlignedPair], terms: Phrases) -> tuple[SaidTerm, ...]:
    """The terms that were said, as :attr:`~asrmerge.evaluation.scored.ScoredUtterance.term_hits` counts them.

    A term is recognised where all its words are aligned as equal with nothing in between, and it is a term of the hypothesis too.
    """
    reference = [pair.reference for pair in alignment if pair.reference is not None]
    said = terms.find(reference)
    if not said:
        return ()
    hypothesis = [pair.hypothesis for pair in alignment if pair.hypothesis is not None]
    recognised = {(term.phrase, term.start, term.end) for term in terms.find(hypothesis)}
    places = [place for place, pair in enumerate(alignment) if pair.reference is not None]
    heard_before = [0, *accumulate(pair.hypothesis is not None for pair in alignment)]
    found = []
    for term in said:
        first, last = places[term.start], places[term.end - 1]
        found.append(_said(term, alignment[first : last + 1], heard_before[first], recognised))
    return tuple(found)


def _said(term: Occurrence, pairs: Sequence[AlignedPair], start: int, recognised: set[tuple[str, int, int]]) -> SaidTerm:
    right = all(pair.kind == "equal" for pair in pairs) and (term.phrase, start, start + len(pairs)) in recognised
    return SaidTerm(term.phrase, right, " ".join(pair.hypothesis for pair in pairs if pair.hypothesis is not None))


def _digest(domain: str, terms: Sequence[SaidTerm]) -> TermDigest:
    said = Counter(term.phrase for term in terms)
    right = Counter(term.phrase for term in terms if term.recognised)
    instead: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for term in terms:
        if not term.recognised:
            instead[term.phrase][term.heard] += 1
    ranked = sorted(instead, key=lambda phrase: (right[phrase] - said[phrase], phrase))
    missed = tuple(
        MissedTerm(
            phrase=phrase,
            said=said[phrase],
            recognised=right[phrase],
            heard=tuple(sorted(instead[phrase].items(), key=lambda item: (-item[1], item[0]))[:HEARD]),
        )
        for phrase in ranked[:MOST]
    )
    return TermDigest(domain, title_of(domain), said.total(), right.total(), missed)
