"""Utterances as a recogniser's forward pass takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asrmerge.recognizers.batching import length_buckets
from asrmerge.recognizers.recognizer import DifferentiableRecognizer, Recognizer
from asrmerge.speech.audio import read_utterance
from asrmerge.speech.manifest import Utterance


def read_within_window(recognizer: Recognizer, utterance: Utterance) -> np.ndarray:
    """Its audio ``[samples]`` at the recogniser's rate, of one that fits the window: resampling rounds lengths up.

    Raises:
        AudioError: the audio file cannot be read.
    """
    rate, window = recognizer.sampling_rate, recognizer.window_seconds
    return read_utterance(utterance, rate)[: None if window is None else int(window * rate)]


def forward_batches(recognizer: DifferentiableRecognizer, lengths: Sequence[int], seconds: float) -> list[list[int]]:
    """Indices into ``lengths`` (in samples) as batches of about so many seconds once padded, in which no utterance changes
    another's logits."""
    rate, window = recognizer.sampling_rate, recognizer.window_seconds
    padded = lengths if window is None else [round(window * rate)] * len(lengths)
    return length_buckets(padded, batch_length=round(seconds * rate), equal=not recognizer.padding_is_neutral())
