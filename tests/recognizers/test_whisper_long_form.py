"""Whisper beyond its window: transformers' long-form generation where there are timestamps, else pieces cut at pauses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor, pipeline

from asrmerge.recognizers import load_recognizer
from asrmerge.recognizers.families.whisper import WhisperRecognizer
from asrmerge.recognizers.windows import split_at_pauses
from asrmerge.speech.audio import read_audio

Make = Callable[..., Path]
Noises = Callable[..., list[np.ndarray]]
SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.mark.parametrize("seconds", [1.01, 2.4, 4.0])
@pytest.mark.parametrize("multilingual", [False, True])
def test_long_form_is_that_of_transformers(make_whisper: Make, noises: Noises, multilingual: bool, seconds: float) -> None:
    folder = make_whisper(timestamps=True, multilingual=multilingual, seed=2)
    recognizer = load_recognizer(folder, language="german")
    short, long = noises(0.8, seconds)
    language = {"language": "de", "task": "transcribe"} if multilingual else {}
    model, processor = WhisperForConditionalGeneration.from_pretrained(folder), WhisperProcessor.from_pretrained(folder)
    features = processor.feature_extractor(
        long, sampling_rate=16_000, truncation=False, padding="longest", return_attention_mask=True, return_tensors="pt"
    )
    with torch.no_grad():
        tokens = model.generate(**features, return_timestamps=True, condition_on_prev_tokens=False, num_beams=1, **language)
    expected = processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert recognizer.transcribe([short, long]) == [recognizer.transcribe([short])[0], expected] and expected
    peer = pipeline("automatic-speech-recognition", model=str(folder))
    options = {"num_beams": 1, "condition_on_prev_tokens": False, **language}
    text = peer(long.copy(), return_timestamps=True, generate_kwargs=options)["text"]
    # A random model breaks characters of several bytes, and the pipeline decodes segment by segment.
    assert "".join(filter(str.isascii, text)).strip() == "".join(filter(str.isascii, expected)).strip()


def test_segments_are_in_order_and_hold_the_text(make_whisper: Make, noises: Noises) -> None:
    recognizer = load_recognizer(make_whisper(timestamps=True, seed=2))
    assert isinstance(recognizer, WhisperRecognizer)
    recognizer.model.train()
    timed = recognizer.long_form(noises(3.3)[0])
    assert recognizer.model.training
    assert timed.text == recognizer.transcribe(noises(3.3))[0] and len(timed.segments) > 1
    starts = [segment.start for segment in timed.segments]
    assert starts == sorted(starts) and all(segment.start <= segment.end for segment in timed.segments)


@pytest.mark.skipif(not (SHARED / "whisper-tiny-human").is_dir(), reason="shared/whisper-tiny-human is not here")
@pytest.mark.skipif(not (SHARED / "speech" / "an4").is_dir(), reason="shared/speech/an4 is not here")
def test_long_human_speech_is_what_its_pieces_say() -> None:
    """A Whisper without timestamps: cut in the pauses between utterances, it says what it says of each piece."""
    recognizer = load_recognizer(SHARED / "whisper-tiny-human")
    manifest = SHARED / "speech" / "an4" / "test.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()[:12]]
    pause = np.zeros(16_000, np.float32)
    audio = np.concatenate([part for row in rows for part in (read_audio(manifest.parent / row["audio_filepath"]), pause)])
    assert 30 < len(audio) / 16_000 < 90
    pieces = split_at_pauses(audio, window=480_000, sampling_rate=16_000)
    assert len(pieces) > 1
    text = recognizer.transcribe([audio])[0]
    assert text == " ".join(recognizer.transcribe(pieces)) and len(text.split()) > 20
