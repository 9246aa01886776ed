"""CTC: a word lasts from the first to the last frame of its letters on the best path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from transformers import Wav2Vec2CTCTokenizer

from asrmerge.recognizers.families.ctc import CtcRecognizer
from asrmerge.speech.timed_text import Segment, TimedText, Times, Word, phrases, project


def transcribe(recognizer: CtcRecognizer, audio: Sequence[np.ndarray], *, times: Times, batch_seconds: float) -> list[TimedText]:
    """Texts as ``recognizer.transcribe`` gives them, with phrases and their words; the times cost nothing more."""
    noting = _NotingTokenizer(recognizer.processor.tokenizer)
    processor = SimpleNamespace(feature_extractor=recognizer.processor.feature_extractor, tokenizer=noting)
    texts = replace(recognizer, processor=processor).transcribe(audio, batch_seconds=batch_seconds)
    seconds = [len(samples) / recognizer.sampling_rate for samples in audio]
    return [
        TimedText(text, _segments(noting.tokenizer, text, path, length))
        for text, path, length in zip(texts, noting.paths, seconds, strict=True)
    ]


class _NotingTokenizer:
    """A tokenizer that keeps the paths, one token per frame, that a recogniser has it decode."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.paths: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def batch_decode(self, paths: Sequence[list[int]]) -> list[str]:
        self.paths += paths
        texts: list[str] = self.tokenizer.batch_decode(paths)
        return texts


def _segments(tokenizer: Any, text: str, path: list[int], seconds: float) -> tuple[Segment, ...]:
    if not isinstance(tokenizer, Wav2Vec2CTCTokenizer):  # others, such as those of phonemes, have no words
        return (Segment(0.0, seconds, text),) if text else ()
    frame = seconds / max(1, len(path))
    words = [
        Segment(int(word["start_offset"]) * frame, int(word["end_offset"]) * frame, word["word"])
        for word in tokenizer.decode(path, output_word_offsets=True).word_offsets
    ]
    # The text may have been cleaned up after its words were found.
    return phrases([Word(f" {word.text}", word.start, word.end) for word in project(text, words)])
