"""In which order a search hears the validation audio: in growing blocks, each like the whole."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asrmerge.speech.manifest import Utterance

GROWING = (0.125, 0.25, 0.5, 1.0)
ALL_AT_ONCE = (1.0,)
_LEAST = 8  # utterances of a domain in the first look, where it has them: the spread of fewer says nothing


@dataclass(frozen=True)
class AudioPlan:
    """The validation audio in the order in which it is heard.

    Attributes:
        utterances: by domain.
        ends: domain → how many of its utterances have been heard after each look; the last is all of them.
    """

    utterances: Mapping[str, tuple[Utterance, ...]]
    ends: Mapping[str, tuple[int, ...]]

    @property
    def looks(self) -> int:
        """How many blocks there are, the same in every domain; late ones of a small domain may be empty."""
        return len(next(iter(self.ends.values())))

    def block(self, domain: str, look: int) -> tuple[Utterance, ...]:
        """What is new to the look of this number, from 0."""
        ends = (0, *self.ends[domain])
        return self.utterances[domain][ends[look] : ends[look + 1]]

    def size(self, look: int) -> int:
        """How many utterances of all domains are new to a look."""
        return sum(len(self.block(domain, look)) for domain in self.utterances)

    @property
    def total(self) -> int:
        """Utterances of all domains."""
        return sum(len(found) for found in self.utterances.values())


def plan_audio(
    validation: Mapping[str, Sequence[Utterance]], *, seed: int = 0, fractions: Sequence[float] = GROWING
) -> AudioPlan:
    """Order each domain's audio so that every look holds short and long utterances in their share.

    The utterances are sorted by duration and cut into as many strata as the first look has utterances; each look takes the same
    number of every stratum, drawn by the seed. The order they are given in does not matter.

    Args:
        fractions: of a domain heard after each look, growing, the last 1.
    """
    if list(fractions) != sorted(set(fractions)) or not 0 < fractions[0] <= fractions[-1] == 1:
        raise ValueError(f"the fractions of the looks must grow from above 0 to 1; got {list(fractions)}")
    utterances, ends = {}, {}
    for domain, given in validation.items():
        count = len(given)
        ends[domain] = tuple(min(count, max(_LEAST, round(count * fraction))) for fraction in fractions)
        generator = np.random.default_rng([seed, zlib.crc32(domain.encode())])
        ordered = sorted(given, key=lambda one: (one.duration, one.identifier))
        utterances[domain] = _interleaved(ordered, ends[domain][0], generator) if len(fractions) > 1 else tuple(ordered)
    return AudioPlan(utterances, ends)


def _interleaved(ordered: Sequence[Utterance], strata: int, generator: np.random.Generator) -> tuple[Utterance, ...]:
    parts = [generator.permutation(part).tolist() for part in np.array_split(np.arange(len(ordered)), strata) if len(part)]
    found: list[int] = []
    for row in range(max(map(len, parts), default=0)):
        column = [part[row] for part in parts if row < len(part)]
        found += generator.permutation(column).tolist()
    return tuple(ordered[index] for index in found)
