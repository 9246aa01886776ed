"""The shipped bases: small, loadable by plain transformers, and able to recognise voices that they never heard."""

from __future__ import annotations

import itertools
import random
from importlib.util import find_spec
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Wav2Vec2ForCTC, WhisperForConditionalGeneration, pipeline

from asrmerge.content import content_folder, resolve_model
from asrmerge.recognizers.recognizer import load_recognizer
from asrmerge.speech.domains import delivery
from asrmerge.speech.grammar import read_grammar, split_of
from asrmerge.speech.synthesis import Synthesizer
from asrmerge.speech.voices import held_out_voices

FAMILIES = {"ctc": Wav2Vec2ForCTC, "whisper": WhisperForConditionalGeneration}
needs_espeak = pytest.mark.skipif(find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed")


@pytest.fixture(scope="module")
def spoken() -> tuple[list[str], list[np.ndarray]]:
    grammar = read_grammar(content_folder("domains") / "general" / "grammar.yaml")
    unseen = (sentence for sentence in grammar.sentences(99) if split_of(sentence) == "test")
    texts = list(itertools.islice(unseen, 24))
    generator = random.Random(5)
    with Synthesizer() as synthesizer:
        said = [delivery(text, generator.choice(held_out_voices("test")), generator, (150, 185)) for text in texts]
        return texts, [synthesizer.speak(one).astype(np.float32) / 32768 for one in said]


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_float16_and_at_most_eight_megabytes(family: str) -> None:
    folder = Path(resolve_model(f"embedded:{family}"))
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= 8_000_000
    model = FAMILIES[family].from_pretrained(folder, dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


@needs_espeak
@pytest.mark.parametrize("family", FAMILIES)
def test_unseen_sentences_by_held_out_voices_are_recognised(family: str, spoken: tuple[list[str], list[np.ndarray]]) -> None:
    texts, audio = spoken
    heard = load_recognizer(resolve_model(f"embedded:{family}")).transcribe(audio)
    assert jiwer.wer(texts, heard) < 0.35


@needs_espeak
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_gives_the_same_transcript(family: str, spoken: tuple[list[str], list[np.ndarray]]) -> None:
    _, audio = spoken
    folder = resolve_model(f"embedded:{family}")
    ours = load_recognizer(folder).transcribe(audio[:3])
    decoding = {"generate_kwargs": {"num_beams": 1}} if family == "whisper" else {}
    plain = pipeline("automatic-speech-recognition", model=folder, dtype=torch.float32, **decoding)
    assert [plain(samples.copy())["text"].strip() for samples in audio[:3]] == ours


@pytest.mark.parametrize("family", FAMILIES)
def test_the_card_says_what_was_measured(family: str) -> None:
    folder = Path(resolve_model(f"embedded:{family}"))
    assert "| held-out voices |" in (folder / "README.md").read_text(encoding="utf-8")
    assert AutoProcessor.from_pretrained(folder).feature_extractor.sampling_rate == 16_000
