"""What a recogniser heard: raw text in JSON lines, normalised only when scored.

One line is one utterance; the keys are those of NeMo's manifests, so its tools read the file too::

    {"id": "1", "audio_filepath": "/clips/1.flac", "duration": 3.2, "text": "take two", "pred_text": "take too", "speaker": "f03"}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asrmerge.files import write_text
from asrmerge.speech.manifest import Utterance, json_line, read_json_lines, stored_path, unique_identifiers


@dataclass(frozen=True)
class Hypothesis:
    """An utterance and its transcript by one model, both as written: ``text`` was said, ``prediction`` recognised.

    ``error`` says why there is no transcript, such as audio that cannot be read, whose ``duration`` may be 0; ``silent`` that the
    audio holds no sound.
    """

    identifier: str
    audio: Path
    duration: float
    text: str
    prediction: str
    speaker: str | None = None
    domain: str | None = None
    start: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    silent: bool = False
    error: str | None = None


def hypothesis_of(utterance: Utterance, prediction: str) -> Hypothesis:
    """``utterance`` with its transcript."""
    return Hypothesis(
        identifier=utterance.identifier,
        audio=utterance.audio,
        duration=utterance.duration,
        text=utterance.text,
        prediction=prediction,
        speaker=utterance.speaker,
        domain=utterance.domain,
        start=utterance.start,
        fields=utterance.fields,
    )


def write_hypotheses(path: Path | str, hypotheses: Iterable[Hypothesis]) -> None:
    """Write ``hypotheses`` as JSON lines, atomically."""
    path = Path(path)
    write_text(path, "".join(hypothesis_line(hypothesis, path.parent) for hypothesis in hypotheses))


def read_hypotheses(path: Path | str) -> tuple[Hypothesis, ...]:
    """The hypotheses in ``path``, in order; the audio need not exist any more, and texts may be empty.

    Raises:
        ManifestError: with file, line number and remedy.
    """
    path = Path(path)
    lines = read_json_lines(path)
    unique_identifiers(lines)
    return tuple(
        Hypothesis(
            identifier=line.filled("id", "give the utterance the id that it has in its manifest"),
            audio=path.parent / line.string("audio_filepath"),
            duration=line.known_duration() or 0.0,
            text=line.string("text"),
            prediction=line.string("pred_text"),
            speaker=line.label("speaker"),
            domain=line.label("domain"),
            start=line.offset(),
            fields=line.fields(),
            silent=line.content.get("silent") is True,
            error=line.label("error"),
        )
        for line in lines
    )


def hypothesis_line(hypothesis: Hypothesis, folder: Path) -> str:
    """A hypothesis as a line of a file in ``folder``."""
    return json_line(
        {
            "id": hypothesis.identifier,
            "audio_filepath": stored_path(hypothesis.audio, folder),
            "offset": hypothesis.start,
            "duration": hypothesis.duration,
            "text": hypothesis.text,
            "pred_text": hypothesis.prediction,
            "speaker": hypothesis.speaker,
            "domain": hypothesis.domain,
            "silent": hypothesis.silent or None,
            "error": hypothesis.error,
            **hypothesis.fields,
        }
    )
