"""From what a format says of an utterance to the utterance: its audio found, its duration known, its identifier its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asrmerge.errors import AudioError, ManifestError
from asrmerge.speech.audio import audio_duration
from asrmerge.speech.manifest import OWN_KEYS, Utterance, check_unique, number_identifiers, require_audio

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """One utterance as its corpus has it; ``place`` (file and line, or what there is of it) opens every refusal.

    ``identifier`` must be the utterance's own; where there is none, ``name``, or else the name of the audio file, becomes one,
    numbered where it repeats. ``duration`` and ``start`` in seconds; a duration of ``None`` is read from the audio.
    ``audio_needed``: false where the corpus holds references alone, whose audio may lie elsewhere.
    """

    place: str
    audio: Path
    text: str
    identifier: str | None = None
    name: str | None = None
    duration: float | None = None
    start: float | None = None
    speaker: str | None = None
    domain: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    audio_needed: bool = True


def complete(
    entries: Sequence[Entry], *, domain: str | None, training: bool, on_progress: OnProgress | None
) -> tuple[Utterance, ...]:
    """The entries as utterances, in order.

    Audio that cannot be read has a duration of 0: whoever decodes it says why. Not so for ``training``, where an empty text is
    refused as well.

    Raises:
        ManifestError: naming the place, if audio is missing, an identifier repeats, or a text to train on is empty.
        AudioError: if audio to train on cannot be read.
    """
    check_unique((entry.identifier, entry.place) for entry in entries)
    for entry in entries:
        if entry.audio_needed:
            require_audio(entry.audio, entry.place)
        if training and not entry.text.strip():
            raise ManifestError(f"{entry.place}: the text is empty; write what is said in the recording, or leave it out.")
    identifiers = number_identifiers(
        [entry.identifier for entry in entries], [entry.name or entry.audio.stem for entry in entries]
    )
    lengths: dict[Path, float] = {}
    utterances = []
    for identifier, entry in zip(identifiers, entries, strict=True):
        utterances.append(
            Utterance(
                identifier=identifier,
                audio=entry.audio,
                duration=entry.duration if entry.duration is not None else _remaining(entry, lengths, training),
                text=entry.text,
                speaker=entry.speaker,
                domain=domain if domain is not None else entry.domain,
                start=entry.start,
                fields={key: value for key, value in entry.fields.items() if key not in OWN_KEYS and value},
            )
        )
        if on_progress:
            on_progress(len(utterances), len(entries))
    return tuple(utterances)


def _remaining(entry: Entry, lengths: dict[Path, float], training: bool) -> float:
    """Seconds from the entry's start to the end of its audio; ``lengths`` keeps those of files that hold several."""
    if entry.audio not in lengths:
        try:
            lengths[entry.audio] = audio_duration(entry.audio)
        except AudioError:
            if training:
                raise
            lengths[entry.audio] = 0.0
    return max(lengths[entry.audio] - (entry.start or 0.0), 0.0)
