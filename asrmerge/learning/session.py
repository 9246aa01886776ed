"""Everything that a method learns with: the base loaded once, task vectors beside it, each domain's audio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from asrmerge.experts.batches import length_batches, plan_batches
from asrmerge.learning.audio import DomainAudio
from asrmerge.learning.inputs import Inputs
from asrmerge.learning.objectives import Objective
from asrmerge.learning.weights import MergedWeights
from asrmerge.recognizers.computing import evaluating
from asrmerge.recognizers.recognizer import CachingRecognizer, DifferentiableRecognizer
from asrmerge.speech.manifest import Utterance

OnProgress = Callable[[int, int], None]


def _ignore(done: int, total: int) -> None:
    pass


class Session:
    """A live model that merges are written into, and audio to try them on.

    Attributes:
        weights: the merge; its groups and experts are the rows and columns of coefficients.
        domains: by sorted name.
        start: expert → where its coefficients start, for experts that were given a weight.
        seed: of the batches.
        on_step: called with the steps done and the steps at most.
    """

    def __init__(
        self,
        recognizer: DifferentiableRecognizer,
        experts: Mapping[str, Mapping[str, Tensor]],
        domains: Sequence[DomainAudio],
        *,
        start: Mapping[str, float] | None = None,
        seed: int = 0,
        on_read: OnProgress = _ignore,
        on_step: OnProgress = _ignore,
    ) -> None:
        """Args:
            recognizer: holds the base.
            experts: name → state.

        Raises:
            ConfigError, IncompatibleError, CheckpointError: as ``MergedWeights``.
            AudioError: an audio file cannot be read.
        """
        self.recognizer = recognizer
        self.weights = MergedWeights(recognizer.model, experts)
        self.domains = tuple(sorted(domains, key=lambda domain: domain.name))  # so that sums round alike
        self.start = dict(start or {})
        self.seed = seed
        self.on_step = on_step
        self.inputs = Inputs(recognizer, encoder_is_shared=self._encoder_is_shared())
        self.inputs.read([one for domain in self.domains for one in domain.utterances], on_read)

    def batches(self, seconds: float, steps: int) -> Iterator[list[list[Utterance]]]:
        """For each step one batch of every domain, of about ``seconds`` of audio each; the same for the same seed."""
        plans = [
            plan_batches(domain.train, [], steps=steps, seconds=seconds, replay=0.0, seed=self.seed) for domain in self.domains
        ]
        return (list(step) for step in zip(*plans, strict=True))

    def loss(
        self,
        coefficients: Tensor,
        objective: Objective,
        batches: Sequence[Sequence[Utterance]],
        heard: Sequence[list[str] | None],
    ) -> Tensor:
        """Mean over the domains' batches, which can be differentiated with respect to the coefficients [groups, experts]."""
        pairs = zip(batches, heard, strict=True)
        return self.weights.loss(coefficients, [lambda pair=pair: objective(*pair) for pair in pairs])  # type: ignore[misc]

    @torch.no_grad()
    def held_out_loss(self, objective: Objective, domain: DomainAudio, heard: Mapping[Utterance, str], seconds: float) -> float:
        """Mean over a domain's held-out utterances, by the live model as it is, with its own transcripts of them."""
        total = 0.0
        for batch in length_batches(domain.held_out, seconds):
            texts = [heard[one] for one in batch] if objective.listens else None
            total += float(objective(batch, texts)) * len(batch)
        return total / len(domain.held_out) + objective.surcharge(list(heard.values()))

    @contextmanager
    def running(self) -> Iterator[None]:
        """The model as it decodes, without dropout, inside of the block."""
        with evaluating(self.recognizer.model):
            yield

    def _encoder_is_shared(self) -> bool:
        """Whether encoder states of the base are those of every merge."""
        if not isinstance(self.recognizer, CachingRecognizer):
            return False
        return not self.weights.changes(list(self.recognizer.model.get_encoder().parameters()))
