"""Which utterances share a training step: a domain's, with a share of general speech replayed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from asrmerge.speech.manifest import Utterance


def plan_batches(
    domain: Sequence[Utterance], general: Sequence[Utterance], *, steps: int, seconds: float, replay: float, seed: int
) -> list[list[Utterance]]:
    """``steps`` batches of about ``seconds`` of audio, of which the share ``replay`` is general speech.

    Utterances of like length share a batch; every epoch is shuffled anew. The same arguments give the same plan.
    """
    share = replay if general else 0.0
    own = _endless(domain, seconds * (1 - share), random.Random(seed))
    replayed = _endless(general, seconds * share, random.Random(seed + 1)) if share else iter(lambda: [], None)
    return [next(own) + next(replayed) for _ in range(steps)]


def length_batches(utterances: Sequence[Utterance], seconds: float) -> list[list[Utterance]]:
    """All utterances, shortest first, in batches of at most ``seconds`` of padded audio (at least one utterance each)."""
    batches: list[list[Utterance]] = []
    for utterance in sorted(utterances, key=lambda item: (item.duration, item.identifier)):
        if batches and utterance.duration * (len(batches[-1]) + 1) <= seconds:
            batches[-1].append(utterance)
        else:
            batches.append([utterance])
    return batches


def _endless(utterances: Sequence[Utterance], seconds: float, generator: random.Random) -> Iterator[list[Utterance]]:
    while True:
        # A little noise in the order lets neighbours change from epoch to epoch.
        order = sorted(utterances, key=lambda item: item.duration * generator.uniform(0.85, 1.15))
        batches: list[list[Utterance]] = []
        for utterance in order:
            if batches and utterance.duration * (len(batches[-1]) + 1) <= seconds:
                batches[-1].append(utterance)
            else:
                batches.append([utterance])
        generator.shuffle(batches)
        yield from batches
