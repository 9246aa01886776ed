"""Transcription of a whole set: survives being killed and audio that cannot be read, and takes the time."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from asrmerge.errors import AsrmergeError, AudioError, ManifestError
from asrmerge.evaluation.decoding import DecodingRecord, describe, record_path
from asrmerge.evaluation.hypotheses import Hypothesis, hypothesis_line, hypothesis_of, write_hypotheses
from asrmerge.recognizers.recognizer import DecodingSettings
from asrmerge.speech.audio import read_utterance
from asrmerge.speech.manifest import Utterance

logger = logging.getLogger(__name__)

Audio = npt.NDArray[np.float32]
_FRAME_SECONDS = 0.025  # what a feature is computed from
_SILENT_BELOW = 10 ** (-60 / 20)  # of full scale: quiet speech is 20 to 30 dB louder
_LEVEL_SECONDS = 0.1  # over which a level is taken: a single click is no sound that anyone would write down
_SECONDS_AT_ONCE = 1200.0  # of audio in memory


class Transcriber(Protocol):
    """What transcription needs of a recogniser."""

    @property
    def sampling_rate(self) -> int:
        """Of the audio it takes, in hertz."""

    def transcribe(self, audio: Sequence[Audio], *, batch_seconds: float) -> list[str]:
        """One text per array [samples], in order."""

    def decoding_settings(self) -> DecodingSettings:
        """What ``transcribe`` uses."""


def transcribe_manifest(
    recognizer: Transcriber,
    utterances: Sequence[Utterance],
    path: Path | str,
    *,
    model: str,
    batch_seconds: float = 60.0,
    chunk: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Hypothesis, ...]:
    """Transcribe ``utterances`` into ``path`` and return what was written, in their order; a killed run goes on where it was.

    The longest come first, so that what shares a batch is of one length. Finished chunks are kept in ``<path>.partial`` until
    all are done. A later call keeps the whole chunks in there that belong to these utterances and begins with the next, so that
    every utterance is decoded in the same company and the result has the bytes of an uninterrupted run. ``path`` must differ per
    model: the partial file does not say which it is.

    Audio that cannot be read, or is shorter than a frame of 25 ms, gets an empty transcript with ``error``, and is logged.
    ``silent`` is audio of which no tenth of a second is louder than −60 dB of full scale (RMS, without its mean).

    A :class:`DecodingRecord` of all sessions is written beside ``path``.

    Args:
        model: what the record calls the model.
        batch_seconds: of audio that goes through the model together.
        chunk: utterances per call of the recogniser, fewer where they are long.
        progress: called with (utterances done, utterances in all) at the start and after every chunk.

    Raises:
        ManifestError: if there are no utterances.
    """
    path = Path(path)
    if not utterances:
        raise ManifestError(f"{path}: there are no utterances to transcribe; check the manifest.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    order = sorted(range(len(utterances)), key=lambda index: -utterances[index].duration)
    chunks = list(_chunks([utterances[index] for index in order], chunk))
    done = _resume(partial, chunks)
    record = _resume_record(
        record_path(path), describe(recognizer.decoding_settings(), model=model, batch_seconds=batch_seconds), done
    )
    with partial.open("ab") as stream:
        stream.truncate(sum(len(hypothesis_line(hypothesis, path.parent).encode()) for hypothesis in done))
        if progress:
            progress(len(done), len(utterances))
        for part in _from(chunks, len(done)):
            fresh, record = _transcribe(recognizer, part, record)
            stream.write("".join(hypothesis_line(hypothesis, path.parent) for hypothesis in fresh).encode())
            stream.flush()
            os.fsync(stream.fileno())
            record.write(record_path(path))
            done += fresh
            if progress:
                progress(len(done), len(utterances))
    hypotheses = tuple(hypothesis for _, hypothesis in sorted(zip(order, done, strict=True), key=lambda item: item[0]))
    _report_failed(path, hypotheses)
    write_hypotheses(path, hypotheses)
    partial.unlink()
    return hypotheses


def is_silent(samples: Audio, sampling_rate: int) -> bool:
    """Whether no tenth of a second is louder than −60 dB of full scale, RMS without its mean."""
    span = round(_LEVEL_SECONDS * sampling_rate)
    return all(float(np.std(samples[start : start + span])) < _SILENT_BELOW for start in range(0, len(samples), span))


def _chunks(utterances: Sequence[Utterance], most: int) -> Iterator[list[Utterance]]:
    """Of ``most`` utterances at most, and of ``_SECONDS_AT_ONCE`` at most unless a single one is longer."""
    chunk: list[Utterance] = []
    for utterance in utterances:
        seconds = sum(one.duration for one in chunk)
        if chunk and (len(chunk) == most or seconds + utterance.duration > _SECONDS_AT_ONCE):
            yield chunk
            chunk = []
        chunk.append(utterance)
    yield chunk


def _from(chunks: Sequence[Sequence[Utterance]], done: int) -> Iterator[Sequence[Utterance]]:
    """The chunks after ``done`` utterances."""
    for chunk in chunks:
        if done <= 0:
            yield chunk
        done -= len(chunk)


def _transcribe(
    recognizer: Transcriber, utterances: Sequence[Utterance], record: DecodingRecord
) -> tuple[list[Hypothesis], DecodingRecord]:
    """The hypotheses of a chunk, and the record with it."""
    found = [_read(utterance, recognizer.sampling_rate) for utterance in utterances]
    audio = [samples for samples in found if not isinstance(samples, str)]
    before = time.perf_counter()
    texts = iter(recognizer.transcribe(audio, batch_seconds=record.batch_seconds) if audio else [])
    seconds = time.perf_counter() - before
    hypotheses = [
        replace(hypothesis_of(utterance, ""), error=samples)
        if isinstance(samples, str)
        else replace(hypothesis_of(utterance, next(texts)), silent=is_silent(samples, recognizer.sampling_rate))
        for utterance, samples in zip(utterances, found, strict=True)
    ]
    return hypotheses, record.plus(
        utterances=len(audio),
        failed=len(utterances) - len(audio),
        audio_seconds=sum(map(len, audio)) / recognizer.sampling_rate,
        processing_seconds=seconds,
    )


def _read(utterance: Utterance, sampling_rate: int) -> Audio | str:
    """The samples, or why there are none."""
    try:
        samples = read_utterance(utterance, sampling_rate)
    except (AudioError, OSError) as error:
        return str(error)
    if len(samples) < _FRAME_SECONDS * sampling_rate:
        return f"{utterance.audio}: the audio of {1000 * len(samples) / sampling_rate:.3g} ms is shorter than a frame of 25 ms."
    return samples


def _report_failed(path: Path, hypotheses: Sequence[Hypothesis]) -> None:
    failed = [hypothesis for hypothesis in hypotheses if hypothesis.error is not None]
    for hypothesis in failed:
        logger.warning("'%s' has no transcript: %s", hypothesis.identifier, hypothesis.error)
    if failed:
        logger.warning("%s: %d of %d utterances have no transcript.", path, len(failed), len(hypotheses))


def _resume(partial: Path, chunks: Sequence[Sequence[Utterance]]) -> list[Hypothesis]:
    """The finished chunks in ``partial``: lines up to the first that is torn or belongs to other utterances."""
    if not partial.exists():
        return []
    lines = iter(partial.read_bytes().split(b"\n")[:-1])  # what follows the last line break is a torn line
    kept: list[Hypothesis] = []
    for chunk in chunks:
        found = [_stored(utterance, line, partial.parent) for utterance, line in zip(chunk, lines, strict=False)]
        whole = [hypothesis for hypothesis in found if hypothesis is not None]
        if len(whole) < len(chunk):
            break
        kept += whole
    return kept


def _stored(utterance: Utterance, line: bytes, folder: Path) -> Hypothesis | None:
    """The hypothesis in a stored line; ``None`` where it is not one of ``utterance``."""
    try:
        content = json.loads(line)
        prediction, silent, error = content["pred_text"], content.get("silent") is True, content.get("error")
        hypothesis = replace(hypothesis_of(utterance, prediction), silent=silent, error=error)
        return hypothesis if hypothesis_line(hypothesis, folder).encode() == line + b"\n" else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _resume_record(path: Path, fresh: DecodingRecord, done: Sequence[Hypothesis]) -> DecodingRecord:
    """The record of the sessions that ``done`` is from, where it is there; else ``fresh``, to measure what is still to come."""
    if not done:
        return fresh
    try:
        stored = DecodingRecord.read(path)
    except AsrmergeError:
        stored = fresh
    failed = sum(hypothesis.error is not None for hypothesis in done)
    return (stored if stored.continues(fresh) else fresh).model_copy(update={"failed": failed})
