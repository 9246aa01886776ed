"""Whether the best is better than what it is measured with, by how much, and how much of that is owed to having been chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from asrmerge.evaluation.bootstrap import Resampling, interval, two_sided_p_value
from asrmerge.search.candidate import Candidate
from asrmerge.search.counts import SearchCounts, terms_of
from asrmerge.search.objective import References
from asrmerge.search.outcome import Scores
from asrmerge.search.result import Confirmation, ExpectedOptimism, Trial
from asrmerge.search.session import Session

SAMPLES = 1000
LEVEL = 0.95
SPLITS = 200
_LEAST = 8  # utterances of a domain, to be cut in halves
_RIVALS = 5  # candidates that are compared at least, where there are so many: two finalists hide what was chosen among


def confirm(session: Session, best: Trial) -> tuple[Confirmation, ...]:
    """The best against the base, the uniform average, every expert and the other finalists, by a paired bootstrap.

    Each pair is compared on the audio that both have heard; whole speakers are drawn where enough are known. Nothing can be said
    where a domain counts as one utterance.
    """
    if any(session.totals[name].utterances < 2 for name in session.objective.targets):
        return ()
    others = [trial for trial in session.trials if trial.number != best.number and trial.judgement is not None]
    shown = [trial for trial in others if trial.candidate.kind in ("base", "uniform", "expert")]
    finalists = sorted((trial for trial in others if trial not in shown and trial.complete), key=lambda trial: trial.rank)
    found = (_compared(session, best.candidate, trial) for trial in (*shown, *finalists[:2]))
    return tuple(one for one in found if one is not None)


def measured_with(session: Session, best: Trial) -> tuple[Trial, ...]:
    """The trials in order, those that have not heard all of the audio with how far they are behind ``best``, which has."""
    if not best.complete:
        return tuple(session.trials)
    found = []
    for trial in session.trials:
        if not trial.complete and trial.objective is not None:
            looks = session.looks_of(trial.candidate)
            there = session.objective.value(session.counts(best.candidate, looks), session.references(looks))
            trial = replace(trial, behind=round(trial.objective - there, 6))
        found.append(trial)
    return tuple(found)


def session_optimism(session: Session) -> ExpectedOptimism | None:
    """How much lower the best's objective is expected to be on this audio than on new audio, by nested splits.

    On as much of the audio as several candidates have heard: the best on one half is taken to the other half, many times, the
    halves stratified by domain. The mean loss is the optimism of a search with half of that audio. The bias of a minimum of noisy
    means shrinks with their standard error, so that with all of the audio it is smaller by the root of the shares: √(heard/2).
    None with less than two candidates, or too little audio.
    """
    whole = session.plan.looks
    judged = [trial for trial in session.trials if trial.judgement is not None]
    wanted = min(_RIVALS, len(judged))
    looks = max((one for one in range(1, whole + 1) if len(_heard(session, judged, one)) >= wanted), default=0)
    trials = _heard(session, judged, looks)
    sizes = {name: session.plan.ends[name][looks - 1] for name in session.objective.targets} if looks else {}
    if len(trials) < 2 or min(sizes.values()) < _LEAST:
        return None
    table = {name: _table(session, name, trials, looks) for name in sizes}
    references = session.references(looks)
    generator = np.random.default_rng([session.seed, 1])
    losses = []
    for _ in range(SPLITS):
        halves = {name: generator.permutation(count) < count // 2 for name, count in sizes.items()}
        chosen, left = (
            _objectives(session, {name: table[name][:, :, half == side] for name, half in halves.items()}, references)
            for side in (True, False)
        )
        best = int(np.argmin(chosen))
        losses.append(left[best] - chosen[best])
    share = sum(sizes.values()) / sum(len(session.plan.utterances[name]) for name in sizes)
    mean, error = float(np.mean(losses)), float(np.std(losses, ddof=1) / np.sqrt(SPLITS))
    scale = float(np.sqrt(share / 2))
    return ExpectedOptimism(round(max(mean, 0.0) * scale, 6), round(error * scale, 6), len(trials))


def _heard(session: Session, trials: Sequence[Trial], looks: int) -> list[Candidate]:
    return [one.candidate for one in trials if session.looks_of(one.candidate) >= looks]


def _table(session: Session, domain: str, candidates: Sequence[Candidate], looks: int) -> np.ndarray:
    """Words, errors, terms said and found of every candidate and utterance: [candidates, 4, utterances]."""
    heard = [session.heard(one, looks)[domain] for one in candidates]
    return np.array([[[one.words, one.errors, *terms_of(one)] for one in scores] for scores in heard]).transpose(0, 2, 1)


def _objectives(session: Session, parts: Mapping[str, np.ndarray], references: References) -> list[float]:
    sums = {name: part.sum(axis=2).tolist() for name, part in parts.items()}
    candidates = range(len(next(iter(sums.values()))))
    counts = [{name: _pooled(rows[index]) for name, rows in sums.items()} for index in candidates]
    return [session.objective.value(one, references) for one in counts]


def _pooled(row: Sequence[int]) -> SearchCounts:
    return SearchCounts(row[0], row[1], terms=row[2], found=row[3])


def _compared(session: Session, best: Candidate, trial: Trial) -> Confirmation | None:
    looks = min(session.looks_of(best), session.looks_of(trial.candidate))
    if not looks:
        return None
    references = session.references(looks)
    pair = (best, trial.candidate)
    sums = [{name: _sums(session, name, session.heard(one, looks), looks) for name in session.objective.targets} for one in pair]
    # The last column is of what there is, undrawn.
    values = np.array(
        [
            [session.objective.value({name: _pooled(rows[index]) for name, rows in one.items()}, references) for one in sums]
            for index in range(SAMPLES + 1)
        ]
    )
    differences = values[:-1, 0] - values[:-1, 1]
    low, high = interval(differences, LEVEL)
    return Confirmation(
        other=trial.candidate.label,
        difference=float(values[-1, 0] - values[-1, 1]),
        low=low,
        high=high,
        p_value=two_sided_p_value(differences),
        complete=trial.complete,
    )


def _sums(session: Session, domain: str, scores: Scores, looks: int) -> list[list[int]]:
    """Words, errors, terms said and found of a domain: [draws + 1][4], last of what there is."""
    rows = np.array([[one.words, one.errors, *terms_of(one)] for one in scores[domain]]).T
    heard = [one.speaker for look in range(looks) for one in session.plan.block(domain, look)]
    drawn = Resampling(rows.shape[1], SAMPLES, session.seed, heard, domain).sums(rows)
    found: list[list[int]] = np.concatenate([drawn, rows.sum(axis=1, keepdims=True)], axis=1).T.tolist()
    return found
