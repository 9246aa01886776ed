"""The embedded speakers: espeak-ng voices, some of which the embedded bases never heard.

A speaker is an accent and a variant of espeak-ng (``en-us+m3``). Bases are trained on one set of variants; the
domains speak with others, and a domain's validation and test speakers are not among its training speakers.
"""

from __future__ import annotations

from asrmerge.speech.grammar import Split

ACCENTS: tuple[str, ...] = ("en-us", "en", "en-gb-x-rp")
BASE_VARIANTS: tuple[str, ...] = (
    *("m1", "m2", "m3", "m5", "m7", "m8", "f1", "f2", "f3", "f5"),
    *("Alex", "Andrea", "Gene", "Lee", "Mario", "edward", "linda", "paul", "steph", "victor"),
    *("Denis", "Jacky", "adam", "boris", "david", "marcelo", "max", "norbert", "pablo", "quincy", "shelby", "travis"),
)
# None of espeak-ng's robots, whisperers and other effects.
HELD_OUT_VARIANTS: dict[Split, tuple[str, ...]] = {
    "train": ("m4", "f4", "Andy", "Annie", "Henrique", "Michael", "antonio", "robert"),
    "validation": ("Mike", "anika", "john", "pedro"),
    "test": ("m6", "Nguyen", "Reed", "belinda", "benjamin", "michel"),
}


def base_voices() -> tuple[str, ...]:
    """The speakers that the embedded bases are trained on."""
    return tuple(f"{accent}+{variant}" for accent in ACCENTS for variant in BASE_VARIANTS)


def held_out_voices(split: Split) -> tuple[str, ...]:
    """The speakers of one split of the embedded domains; disjoint between splits and from :func:`base_voices`."""
    return tuple(f"{accent}+{variant}" for accent in ACCENTS for variant in HELD_OUT_VARIANTS[split])
