"""Utterances as a recogniser takes them: audio in memory, and encoder states where no expert has changed the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from asrmerge.errors import ManifestError
from asrmerge.recognizers.hearing import read_within_window
from asrmerge.recognizers.recognizer import CachingRecognizer, DifferentiableRecognizer
from asrmerge.speech.manifest import Utterance

_CACHE_BYTES = 3 << 30  # of encoder states; beyond, they are computed again


class Inputs:
    """Audio (230 MB an hour), and with ``encoder_is_shared`` what the encoder makes of it, which is then computed once."""

    def __init__(self, recognizer: DifferentiableRecognizer, *, encoder_is_shared: bool) -> None:
        self._recognizer = recognizer
        self.encoder_is_shared = encoder_is_shared
        self._audio: dict[Utterance, np.ndarray] = {}
        self._states: dict[Utterance, Tensor] = {}
        self._bytes = 0

    def read(self, utterances: Sequence[Utterance], on_progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Take these utterances' audio into memory.

        Raises:
            AudioError: an audio file cannot be read.
        """
        for done, one in enumerate(utterances, start=1):
            self._audio[one] = read_within_window(self._recognizer, one)
            on_progress(done, len(utterances))

    def of(self, utterances: Sequence[Utterance], texts: Sequence[str] | None) -> dict[str, Any]:
        """One batch as arguments of ``loss`` and ``logits``; without ``texts``, without labels."""
        batch = {} if texts is None else {"labels": self._recognizer.labels(texts)}
        if self.encoder_is_shared:
            return {"batch": batch, "encoder_states": self._encoded(utterances)}
        return {"batch": {**self._recognizer.features(self._samples(utterances)), **batch}}

    def transcribe(self, utterances: Sequence[Utterance]) -> list[str]:
        """Greedy transcripts by the live model, in order."""
        samples = self._samples(utterances)
        if not self.encoder_is_shared:
            return self._recognizer.transcribe(samples)
        return cast(CachingRecognizer, self._recognizer).transcribe(samples, encoder_states=self._encoded(utterances))

    def lengths(self, utterances: Sequence[Utterance]) -> list[int]:
        """Samples of each, as the model hears them."""
        return [len(samples) for samples in self._samples(utterances)]

    def label_text(self, text: str) -> str:
        """``text``, or of one that runs on beyond what the model can be given as labels, as many words as fit."""
        words = text.split()
        while words:
            try:
                self._recognizer.labels([" ".join(words)])
            except ManifestError:
                words = words[: len(words) // 2]
            else:
                break
        return " ".join(words)

    def _samples(self, utterances: Sequence[Utterance]) -> list[np.ndarray]:
        return [self._audio[one] for one in utterances]

    def _encoded(self, utterances: Sequence[Utterance]) -> Tensor:
        missing = [one for one in utterances if one not in self._states]
        known = {one: self._states[one] for one in utterances if one in self._states}
        if missing:
            states = cast(CachingRecognizer, self._recognizer).encode(self._samples(missing)).cpu()
            for one, state in zip(missing, states, strict=True):
                known[one] = state
                if self._bytes + state.nbytes <= _CACHE_BYTES:
                    self._bytes += state.nbytes
                    self._states[one] = state.clone()  # a view would keep the whole batch
        return torch.stack([known[one] for one in utterances])
