"""The audio that a merge learns from, domain by domain: what fits the model, what is learnt from, what is held out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from asrmerge.errors import ManifestError
from asrmerge.speech.manifest import Utterance

logger = logging.getLogger(__name__)
_SHORTEST_SECONDS = 0.01  # a frame of features
_SHOWN = 3  # utterances that are named when some are left out


@dataclass(frozen=True)
class DomainAudio:
    """One domain's audio.

    Attributes:
        train: what gradients are taken of, in the corpus's order.
        held_out: what decides which coefficients are kept.
        left_out: identifier → why.
    """

    name: str
    train: tuple[Utterance, ...]
    held_out: tuple[Utterance, ...]
    left_out: dict[str, str]

    @property
    def has_texts(self) -> bool:
        """Whether anybody has written down what is said: where all texts are empty, nobody has."""
        return any(one.text.strip() for one in (*self.train, *self.held_out))

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """All that are used."""
        return (*self.train, *self.held_out)


def draw(utterances: Sequence[Utterance], most: int | None, seed: int) -> list[Utterance]:
    """At most so many of them, in their order; which, hangs on the seed and the identifiers alone."""
    order = sorted(utterances, key=lambda one: _rank(one, seed))
    chosen = set(order[:most])
    return [one for one in utterances if one in chosen]


def _rank(utterance: Utterance, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{utterance.identifier}".encode()).digest()


def split_audio(name: str, corpus: Sequence[Utterance], *, share: float, seed: int, window: float | None) -> DomainAudio:
    """The corpus without what is too short or too long, ``share`` of it held out: at least one utterance, and not all.

    With a share of 0 nothing is. Who is held out hangs on the seed and the identifier alone, not on the order or on the texts.

    Args:
        window: seconds that the model takes at most, if there is such a bound.

    Raises:
        ManifestError: fewer than two utterances can be used; or, where nothing is held out, none.
    """
    left_out: dict[str, str] = {}
    for one in corpus:
        if one.duration < _SHORTEST_SECONDS:
            left_out[one.identifier] = "shorter than a frame, or unreadable"
        elif window is not None and one.duration > window:
            left_out[one.identifier] = f"longer than the model's window of {window:g} s"
    usable = [one for one in corpus if one.identifier not in left_out]
    if left_out:
        named = "; ".join(f"{identifier}: {reason}" for identifier, reason in list(left_out.items())[:_SHOWN])
        more = f"; and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        logger.warning("audio of %s: %d of %d utterances left out (%s%s)", name, len(left_out), len(corpus), named, more)
    if len(usable) < (2 if share else 1):
        fits = f" ({len(left_out)} of {len(corpus)} are too short or too long)" if left_out else ""
        needed = "at least two are needed, one to learn from and one to hold out" if share else "at least one is needed"
        raise ManifestError(f"The audio of {name} has {len(usable)} usable utterances{fits}, and {needed}: give more.")
    if not share:
        return DomainAudio(name, tuple(usable), (), left_out)
    order = sorted(usable, key=lambda one: _rank(one, seed))
    count = min(max(round(share * len(usable)), 1), len(usable) - 1)
    held_out = {one.identifier for one in order[:count]}
    return DomainAudio(
        name=name,
        train=tuple(one for one in usable if one.identifier not in held_out),
        held_out=tuple(one for one in usable if one.identifier in held_out),
        left_out=left_out,
    )
