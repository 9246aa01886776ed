"""Running audio through a live model no further than needed, for work that goes through it part by part."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from asrmerge.learning.inputs import Inputs
from asrmerge.recognizers.computing import evaluating
from asrmerge.recognizers.fast_linear import fast_linear
from asrmerge.recognizers.hearing import forward_batches
from asrmerge.recognizers.recognizer import CachingRecognizer, DifferentiableRecognizer
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.collectors import Collector
from asrmerge.statistics.watching import Look, Watcher, look_at

_BATCH_SECONDS = 60.0


class _AllHeardError(Exception):
    """Everything that was waited for has been computed."""


class Listener:
    """Runs utterances through a live model and tells collectors of it; decoders that write the text are fed the texts.

    Each call is a new pass, which ends where the last module that it is asked for has been computed. So work that goes through L
    layers one by one computes about L/2 times what one whole pass does. Whisper's encoder is computed once as soon as
    ``encoder_is_final`` has been called: its states are kept (up to 3 GB).
    """

    def __init__(self, recognizer: DifferentiableRecognizer, inputs: Inputs, *, padding_every: int) -> None:
        """``padding_every``: of the positions of padding that the model hears, each so-and-so-many-th counts as one of speech."""
        self._recognizer, self._inputs, self._padding_every = recognizer, inputs, padding_every
        self._texts: dict[Utterance, str] = {}

    def look(self, utterance: Utterance) -> Look:
        """What a whole pass shows of the model."""
        batch = self._whole_batch([utterance] * 2)
        with evaluating(self._recognizer.model):
            return look_at(self._recognizer, batch)

    @torch.no_grad()
    def listen(
        self, utterances: Sequence[Utterance], collectors: Sequence[Collector], until: Collection[str], look: Look
    ) -> None:
        """Tell the collectors of what is computed of these utterances, until all modules of ``until`` have been called."""
        model = self._recognizer.model
        watcher = Watcher(self._recognizer, collectors, look.sequences, self._padding_every)
        try:
            with evaluating(model), fast_linear(model), _stopping(model, until) as begin:
                for batch in self._plan(utterances):
                    arguments, samples = self._batch(batch)
                    begin()
                    with watcher.watching(arguments["batch"], samples), suppress(_AllHeardError):
                        self._recognizer.logits(**arguments)
        finally:
            watcher.close()

    def encoder_is_final(self) -> None:
        """Nothing before the decoder will be changed any more: from now on encoder states are computed once."""
        if isinstance(self._recognizer, CachingRecognizer):
            self._inputs.encoder_is_shared = True

    def encoder_parameters(self) -> set[int]:
        """Identities of the parameters that encoder states hang on, where such states can be kept; else none."""
        if not isinstance(self._recognizer, CachingRecognizer):
            return set()
        return {id(parameter) for parameter in self._recognizer.model.get_encoder().parameters()}

    def _plan(self, utterances: Sequence[Utterance]) -> list[list[Utterance]]:
        batches = forward_batches(self._recognizer, self._inputs.lengths(utterances), _BATCH_SECONDS)
        return [[utterances[index] for index in batch] for batch in batches]

    def _whole_batch(self, utterances: Sequence[Utterance]) -> Mapping[str, Tensor]:
        """With features, even where encoder states are kept."""
        kept, self._inputs.encoder_is_shared = self._inputs.encoder_is_shared, False
        try:
            batch: Mapping[str, Tensor] = self._batch(utterances)[0]["batch"]
        finally:
            self._inputs.encoder_is_shared = kept
        return batch

    def _batch(self, utterances: Sequence[Utterance]) -> tuple[dict[str, Any], list[int]]:
        """Arguments of ``logits``, and the audio's samples."""
        for one in utterances:
            if one not in self._texts:
                self._texts[one] = self._inputs.label_text(one.text)
        arguments = self._inputs.of(utterances, [self._texts[one] for one in utterances])
        return arguments, self._inputs.lengths(utterances)


@contextmanager
def _stopping(model: nn.Module, names: Collection[str]) -> Iterator[Callable[[], None]]:
    """Hooks that end a pass once all these modules have been called; what is returned begins the next pass."""
    missing: set[str] = set()

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
            missing.discard(name)
            if not missing:
                raise _AllHeardError

        return hook

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(hook_of(name)) for name in names]
    try:
        yield lambda: missing.update(names)
    finally:
        for handle in handles:
            handle.remove()
