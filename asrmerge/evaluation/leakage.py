"""Training and test audio kept apart: a figure on audio that the model has learnt is worth nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from asrmerge.errors import AudioError, ManifestError
from asrmerge.evaluation.normalizers import Normalizer, normalizer
from asrmerge.speech.audio import audio_shape, hash_audio
from asrmerge.speech.manifest import Utterance

SHARED_SECONDS = 0.5  # of one recording that a test and a training utterance may share: neighbours that are cut generously
Value = TypeVar("Value")
Audio = tuple[str, int, int, float, float | None]  # path, size, time of change, start, duration


@dataclass(frozen=True)
class AudioHashes:
    """Shapes and hashes of audio that is compared several times in a run, by path, size and time of change, kept in memory."""

    _shapes: dict[Audio, tuple[int, int, int]] = field(default_factory=dict)
    _digests: dict[Audio, str] = field(default_factory=dict)

    def shape(self, utterance: Utterance) -> tuple[int, int, int]:
        """:func:`asrmerge.speech.audio.audio_shape` of the utterance's part of its file."""
        return _remember(self._shapes, utterance, audio_shape)

    def digest(self, utterance: Utterance) -> str:
        """:func:`asrmerge.speech.audio.hash_audio` of the utterance's part of its file."""
        return _remember(self._digests, utterance, hash_audio)


def check_disjoint(
    training: Sequence[Utterance],
    test: Sequence[Utterance],
    hashes: AudioHashes | None = None,
    *,
    skip_unreadable: bool = False,
) -> None:
    """Refuse test utterances whose audio was also trained or tuned on.

    It was if its samples are the same, whatever the file is called, or if both are parts of one file that share more than half a
    second, or more than half of the shorter. Only audio of equal length is decoded.

    Args:
        hashes: what earlier calls found of the same files.
        skip_unreadable: leave out test audio that cannot be read, which whoever decodes it reports.

    Raises:
        ManifestError: naming the first such test utterance, the training utterance, and how many more there are.
        AudioError: if a file cannot be read.
    """
    hashes = hashes or AudioHashes()
    shared = dict(_sharing_time(training, test)) | dict(_sharing_samples(training, test, hashes, skip_unreadable))
    if not shared:
        return
    number, trained = min(shared.items(), key=lambda item: item[0])
    others = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
    raise ManifestError(
        f"Test utterance '{test[number].identifier}' ({test[number].audio}){others} has the same audio as training utterance "
        f"'{trained.identifier}' ({trained.audio}); take it out of one of the two manifests."
    )


@dataclass(frozen=True)
class NearDuplicate:
    """A test utterance that says the same, in about the same time, as one that was trained or tuned on."""

    test: Utterance
    training: Utterance

    def __str__(self) -> str:
        return (
            f"test utterance '{self.test.identifier}' has text and duration of training utterance '{self.training.identifier}' "
            f"({self.test.duration:g} and {self.training.duration:g} s)"
        )


def near_duplicates(
    training: Sequence[Utterance],
    test: Sequence[Utterance],
    *,
    normalize: Normalizer | None = None,
    tolerance: float = 0.02,
) -> tuple[NearDuplicate, ...]:
    """Test utterances that may be copies, encoded again or cut a little differently, of what was trained or tuned on.

    Their normalised text is the same, their durations differ by at most ``tolerance`` (a fraction of the test utterance's),
    and the speaker is the same or not known of one of them. At most one finding per test utterance, that of the nearest duration.
    Empty texts and unknown durations are left out.

    Args:
        normalize: the text normaliser; Whisper's basic one by default.
    """
    texts = _memory(normalize or normalizer("basic"))
    learnt: dict[tuple[str, str | None, bool], list[tuple[float, int]]] = defaultdict(list)
    for number, utterance in enumerate(training):
        text = texts(utterance.text)
        learnt[text, utterance.speaker, False].append((utterance.duration, number))
        learnt[text, None, True].append((utterance.duration, number))  # by whomever: where the test speaker isn't known
    for durations in learnt.values():
        durations.sort()
    found = []
    for utterance in test:
        text = texts(utterance.text)
        if not text or utterance.duration <= 0:
            continue
        anyone = utterance.speaker is None
        keys = [(text, None, True)] if anyone else [(text, utterance.speaker, False), (text, None, False)]
        nearest = [near for key in keys if (near := _nearest(learnt.get(key, []), utterance.duration, tolerance))]
        if nearest:
            found.append(NearDuplicate(utterance, training[min(nearest)[1]]))
    return tuple(found)


def _nearest(durations: Sequence[tuple[float, int]], duration: float, tolerance: float) -> tuple[float, int] | None:
    """Difference in seconds and number of the utterance whose duration is nearest, if within ``tolerance`` of its own."""
    place = bisect_left(durations, (duration, -1))
    around = [(abs(one - duration), number) for one, number in durations[max(place - 1, 0) : place + 1]]
    # Rounded, because manifests hold decimal fractions.
    near = [(difference, number) for difference, number in around if round(difference, 6) <= round(tolerance * duration, 6)]
    return min(near, default=None)


def _sharing_samples(
    training: Sequence[Utterance], test: Sequence[Utterance], hashes: AudioHashes, skip_unreadable: bool
) -> Iterator[tuple[int, Utterance]]:
    """Number of the test utterance and the training utterance of the same samples."""
    tested: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for number, utterance in enumerate(test):
        if (measured := _measure(hashes.shape, utterance, skip_unreadable)) is not None:
            tested[measured].append(number)
    learnt: dict[tuple[int, int, int], dict[str, Utterance]] = defaultdict(dict)
    for utterance in training:
        shape = hashes.shape(utterance)
        if shape in tested:
            learnt[shape].setdefault(hashes.digest(utterance), utterance)
    for shape, numbers in tested.items():
        for number in numbers if shape in learnt else ():
            digest = _measure(hashes.digest, test[number], skip_unreadable)
            if digest in learnt[shape]:
                yield number, learnt[shape][digest]


def _sharing_time(training: Sequence[Utterance], test: Sequence[Utterance]) -> Iterator[tuple[int, Utterance]]:
    """Number of the test utterance and a training utterance that is cut from the same time of the same file."""
    learnt: dict[Path, list[Utterance]] = defaultdict(list)
    for utterance in training:
        learnt[utterance.audio.resolve()].append(utterance)
    for parts in learnt.values():
        parts.sort(key=_start)
    latest = {path: list(accumulate(map(_end, parts), max)) for path, parts in learnt.items()}
    for number, utterance in enumerate(test):
        path = utterance.audio.resolve()
        parts = learnt.get(path, [])
        # Backwards from the last part that begins before this one ends, while any before it can reach into this one.
        place = bisect_left(parts, _end(utterance), key=_start)
        while place > 0 and latest[path][place - 1] > _start(utterance):
            place -= 1
            if _share_much(parts[place], utterance):
                yield number, parts[place]
                break


def _share_much(one: Utterance, other: Utterance) -> bool:
    shared = min(_end(one), _end(other)) - max(_start(one), _start(other))
    return shared > min(SHARED_SECONDS, one.duration / 2, other.duration / 2)


def _start(utterance: Utterance) -> float:
    return utterance.start or 0.0


def _end(utterance: Utterance) -> float:
    return float("inf") if utterance.start is None else utterance.start + utterance.duration


def _measure(measure: Callable[[Utterance], Value], utterance: Utterance, skip_unreadable: bool) -> Value | None:
    try:
        return measure(utterance)
    except AudioError:
        if not skip_unreadable:
            raise
        return None


def _remember(kept: dict[Audio, Value], utterance: Utterance, measure: Callable[..., Value]) -> Value:
    path, start = utterance.audio.absolute(), utterance.start or 0.0
    duration = None if utterance.start is None else utterance.duration
    try:
        status = path.stat()
    except OSError:
        return measure(path, start=start, duration=duration)  # which says what is wrong with it
    key = (str(path), status.st_size, status.st_mtime_ns, start, duration)
    if key not in kept:
        kept[key] = measure(path, start=start, duration=duration)
    return kept[key]


def _memory(normalize: Normalizer) -> Normalizer:
    """``normalize`` that does every text once: test sets repeat texts, and normalising takes longer than everything else here."""
    known: dict[str, str] = {}

    def remembering(text: str) -> str:
        if text not in known:
            known[text] = " ".join(normalize(text).split())
        return known[text]

    return remembering
