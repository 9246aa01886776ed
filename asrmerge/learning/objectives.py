"""What is made small on audio: the loss of the texts, or the entropy of what the model believes without any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from asrmerge.experts.transcripts import TranscriptStyle, restyle
from asrmerge.speech.manifest import Utterance

if TYPE_CHECKING:
    from asrmerge.learning.inputs import Inputs
    from asrmerge.recognizers.recognizer import DifferentiableRecognizer


class Objective(Protocol):
    """A loss of utterances by the live model.

    Attributes:
        listens: it needs what the model itself has heard.
    """

    listens: bool

    def __call__(self, utterances: Sequence[Utterance], heard: Sequence[str] | None) -> Tensor:
        """The mean over utterances, a scalar with gradient.

        Args:
            heard: the model's own transcripts, where they are needed.
        """
        ...

    def surcharge(self, heard: Sequence[str]) -> float:
        """What comes on top of the mean over utterances where it judges a model, by the model's own transcripts."""
        ...


class TextLoss:
    """−log p(text | audio) of each utterance in nats, divided by its labels; a text that does not fit in its audio counts 0."""

    listens = False

    def __init__(self, recognizer: DifferentiableRecognizer, inputs: Inputs, style: TranscriptStyle = "written") -> None:
        self._recognizer, self._inputs, self._style = recognizer, inputs, style

    def __call__(self, utterances: Sequence[Utterance], heard: Sequence[str] | None) -> Tensor:
        """Looks at the utterances' texts."""
        return self._recognizer.loss(**self._inputs.of(utterances, [restyle(one.text, self._style) for one in utterances]))

    def surcharge(self, heard: Sequence[str]) -> float:
        """None."""
        return 0.0


class Entropy:
    """Mean entropy in nats of what each utterance's transcript hangs on; texts are not looked at.

    CTC: of the frames that are not blank. A decoder that writes its text: of the tokens of its own greedy transcript. A model
    that says nothing is sure of it, so where entropy judges, an empty transcript counts as if anything could have been said.
    """

    def __init__(self, recognizer: DifferentiableRecognizer, inputs: Inputs) -> None:
        self._recognizer, self._inputs = recognizer, inputs
        self.listens = bool(recognizer.model.config.is_encoder_decoder)

    def __call__(self, utterances: Sequence[Utterance], heard: Sequence[str] | None) -> Tensor:
        """Looks at ``heard`` where the model has a decoder."""
        texts = None if heard is None else [self._inputs.label_text(text) for text in heard]
        arguments = self._inputs.of(utterances, texts)
        logits = self._recognizer.logits(**arguments)
        return self._recognizer.entropies(logits, arguments["batch"]).mean()

    def surcharge(self, heard: Sequence[str]) -> float:
        """The highest entropy there is, log of the vocabulary's size, times the share of empty transcripts."""
        share = sum(not text.strip() for text in heard) / len(heard)
        return share * math.log(self._recognizer.model.config.vocab_size)
