"""What a recogniser heard: raw text in JSON lines, normalised only when scored, and transcription that survives being killed.

One line is one utterance; the keys are those of NeMo's manifests, so its tools read the file too::

    {"id": "1", "audio_filepath": "/clips/1.flac", "duration": 3.2, "text": "take two", "pred_text": "take too", "speaker": "f03"}
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from asrmerge.errors import ManifestError
from asrmerge.files import write_text
from asrmerge.speech.audio import read_utterance
from asrmerge.speech.manifest import OWN_KEYS, Utterance, json_line, read_json_lines, stored_path, unique_identifiers


@dataclass(frozen=True)
class Hypothesis:
    """An utterance and its transcript by one model, both as written: ``text`` was said, ``prediction`` recognised.

    ``error`` says why there is no transcript, such as audio that cannot be read; ``silent`` that the audio holds no sound.
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


class Transcriber(Protocol):
    """What transcription needs of a recogniser."""

    @property
    def sampling_rate(self) -> int:
        """Of the audio it takes, in hertz."""

    def transcribe(self, audio: Sequence[npt.NDArray[np.float32]], /) -> list[str]:
        """One text per array [samples], in order."""


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
    write_text(path, "".join(_line(hypothesis, path.parent) for hypothesis in hypotheses))


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
            duration=line.duration(),
            text=line.string("text"),
            prediction=line.string("pred_text"),
            speaker=line.label("speaker"),
            domain=line.label("domain"),
            start=line.offset(),
            fields=line.fields(OWN_KEYS | {"pred_text", "silent", "error"}),
            silent=line.content.get("silent") is True,
            error=line.label("error"),
        )
        for line in lines
    )


def transcribe_manifest(
    recognizer: Transcriber,
    utterances: Sequence[Utterance],
    path: Path | str,
    *,
    chunk: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Hypothesis, ...]:
    """Transcribe ``utterances`` into ``path`` and return what was written; a killed run goes on where it was.

    Finished chunks are kept in ``<path>.partial``, which becomes ``path`` at the end. A later call keeps the whole chunks
    in there that belong to these utterances and begins with the next, so that every utterance is decoded in the same company and
    the result has the bytes of an uninterrupted run. ``path`` must differ per model: the partial file does not say which it is.

    Args:
        chunk: utterances per call of the recogniser.
        progress: called with (utterances done, utterances in all) at the start and after every chunk.

    Raises:
        ManifestError: if there are no utterances.
        AudioError: if an audio file cannot be read; what was transcribed before is kept.
    """
    path = Path(path)
    if not utterances:
        raise ManifestError(f"{path}: there are no utterances to transcribe; check the manifest.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    hypotheses = _resume(partial, utterances, chunk)
    with partial.open("ab") as stream:
        stream.truncate(sum(len(_line(hypothesis, path.parent).encode()) for hypothesis in hypotheses))
        if progress:
            progress(len(hypotheses), len(utterances))
        for start in range(len(hypotheses), len(utterances), chunk):
            fresh = _transcribe(recognizer, utterances[start : start + chunk])
            stream.write("".join(_line(hypothesis, path.parent) for hypothesis in fresh).encode())
            stream.flush()
            os.fsync(stream.fileno())
            hypotheses += fresh
            if progress:
                progress(len(hypotheses), len(utterances))
    partial.replace(path)
    return tuple(hypotheses)


def _transcribe(recognizer: Transcriber, utterances: Sequence[Utterance]) -> list[Hypothesis]:
    texts = recognizer.transcribe([read_utterance(utterance, recognizer.sampling_rate) for utterance in utterances])
    return [hypothesis_of(utterance, text) for utterance, text in zip(utterances, texts, strict=True)]


def _resume(partial: Path, utterances: Sequence[Utterance], chunk: int) -> list[Hypothesis]:
    """The finished chunks in ``partial``: lines up to the first that is torn or belongs to other utterances."""
    if not partial.exists():
        return []
    kept: list[Hypothesis] = []
    lines = partial.read_bytes().split(b"\n")[:-1]  # what follows the last line break is a torn line
    for line, utterance in zip(lines, utterances, strict=False):
        hypothesis = hypothesis_of(utterance, _prediction(line))
        if _line(hypothesis, partial.parent).encode() != line + b"\n":
            break
        kept.append(hypothesis)
    whole = len(kept) if len(kept) == len(utterances) else len(kept) - len(kept) % chunk
    return kept[:whole]


def _prediction(line: bytes) -> str:
    """The transcript in a stored line; empty where there is none, which the comparison with the whole line then shows."""
    try:
        content = json.loads(line)
    except ValueError:
        return ""
    prediction = content.get("pred_text") if isinstance(content, dict) else None
    return prediction if isinstance(prediction, str) else ""


def _line(hypothesis: Hypothesis, folder: Path) -> str:
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
