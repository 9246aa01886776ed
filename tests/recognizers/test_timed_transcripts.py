"""When something was said, by family: the texts stay the recogniser's, the times are transformers' own where it has any."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

from asrmerge.content import resolve_model
from asrmerge.recognizers import load_recognizer
from asrmerge.speech.timed_text import TimedText
from asrmerge.transcribing.timing import ctc, whisper

Make = Callable[..., Path]
Noises = Callable[..., list[np.ndarray]]


def check_order(timed: TimedText, seconds: float) -> None:
    """Segments, and words in them, follow each other inside the audio and hold the text."""
    assert " ".join(segment.text for segment in timed.segments).split() == timed.text.split()
    times = [time for segment in timed.segments for time in (segment.start, segment.end)]
    assert all(one <= other + 1e-6 for one, other in pairwise([0.0, *times, seconds + 0.02]))
    for segment in timed.segments:
        if segment.words:
            assert "".join(word.text for word in segment.words).split() == segment.text.split()
            assert (segment.words[0].start, segment.words[-1].end) == (segment.start, segment.end)
            assert all(one.start < one.end <= other.start for one, other in pairwise(segment.words))


def letters(text: str) -> str:
    return "".join(text.replace("\N{REPLACEMENT CHARACTER}", "").split())


@pytest.mark.parametrize(("model_type", "mask"), [("wav2vec2", True), ("wav2vec2", False), ("wav2vec2-bert", True)])
def test_ctc_words_have_the_times_of_transformers_pipeline(make_ctc: Make, noises: Noises, model_type: str, mask: bool) -> None:
    folder = make_ctc(model_type, mask=mask)
    recognizer = load_recognizer(folder)
    audio = noises(0.6, 1.3, 2.2, 3.1)
    timed = ctc.transcribe(recognizer, audio, times="free", batch_seconds=4.0)
    assert [one.text for one in timed] == recognizer.transcribe(audio)
    frame = recognizer.model.config.inputs_to_logits_ratio / 16_000 if model_type == "wav2vec2" else None
    peer = pipeline("automatic-speech-recognition", model=str(folder))
    counted = 0
    for samples, one in zip(audio, timed, strict=True):
        check_order(one, len(samples) / 16_000)
        if frame is not None:
            chunks = peer({"raw": samples, "sampling_rate": 16_000}, return_timestamps="word")["chunks"]
            words = [word for segment in one.segments for word in segment.words]
            assert [word.text.strip() for word in words] == [chunk["text"] for chunk in chunks]
            for word, chunk in zip(words, chunks, strict=True):
                # A frame counts as its share of the audio; the pipeline leaves out the samples that fill no frame.
                assert (word.start, word.end) == pytest.approx(chunk["timestamp"], abs=2 * frame)
            counted += len(words)
    assert frame is None or counted > 3


def test_long_ctc_audio_keeps_the_recognizers_text() -> None:
    recognizer = load_recognizer(resolve_model("embedded:ctc"))
    time = np.arange(round(7.3 * 16_000))
    sound = (0.3 * np.sin(time**1.2 / 9) * np.sin(time / 3000) ** 2).astype(np.float32)
    audio = [np.tile(np.pad(sound, (0, 32_000)), 5), sound]
    timed = ctc.transcribe(recognizer, audio, times="free", batch_seconds=60.0)
    assert [one.text for one in timed] == recognizer.transcribe(audio)
    for samples, one in zip(audio, timed, strict=True):
        check_order(one, len(samples) / 16_000)
    assert 5 <= len(timed[0].segments) <= len([word for segment in timed[0].segments for word in segment.words])
    for begin in np.arange(5) * 9.3:
        assert any(begin <= segment.start <= begin + 7.3 for segment in timed[0].segments)


@pytest.mark.parametrize("times", ["free", "best"])
@pytest.mark.parametrize("timestamps", [False, True])
def test_whisper_keeps_the_recognizers_text(make_whisper: Make, noises: Noises, timestamps: bool, times: str) -> None:
    recognizer = load_recognizer(make_whisper(seed=2, timestamps=timestamps))
    audio = noises(0.4, 1.0, 2.7, 3.4)
    timed = whisper.transcribe(recognizer, audio, times=times, batch_seconds=60.0)
    assert [one.text for one in timed] == recognizer.transcribe(audio)
    for samples, one in zip(audio, timed, strict=True):
        if timestamps:  # a random model's segments may begin or end within a character
            assert letters("".join(segment.text for segment in one.segments)) == letters(one.text)
        else:
            check_order(one, len(samples) / 16_000)
    if not timestamps:  # the pieces between which long audio is cut
        assert len(timed[3].segments) > len(timed[0].segments) == 1
        assert all(segment.end - segment.start <= recognizer.window_seconds for one in timed for segment in one.segments)
