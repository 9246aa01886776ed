"""Shares of an average, learnt from texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.experts.transcripts import TranscriptStyle
from asrmerge.learning.method import Learned, LearningParameters
from asrmerge.learning.methods._grouping import Per, share_groups
from asrmerge.learning.objectives import TextLoss
from asrmerge.learning.training import train

if TYPE_CHECKING:
    from asrmerge.learning.session import Session


class LearnedSoupParameters(LearningParameters):
    learning_rate: float = Field(default=0.05, gt=0, description="Adam's: about what the logarithm of a share moves in a step")
    per: Per = Field(default="model", description="what has shares of its own: the model, each layer, or each group")
    base: float = Field(default=0.0, ge=0, lt=1, description="share of the base at the start; with 0 it takes no part")
    transcripts: TranscriptStyle = Field(
        default="written", description="texts as written, in lower case, or plain words: as the experts write"
    )


class _Shares:
    """Shares of each group that add up to 1, as the softmax of what is free; see ``Parametrisation``."""

    def __init__(self, session: Session, parameters: LearnedSoupParameters) -> None:
        experts = session.weights.experts
        given = [session.start.get(name, 1.0) for name in experts]
        for name, weight in zip(experts, given, strict=True):
            if weight <= 0:
                raise ConfigError(
                    f"learned_soup: the weight of {name} is {weight}, and such a share can't be learnt: give one above 0, or "
                    "leave the expert out."
                )
        shares = [(1 - parameters.base) * weight / sum(given) for weight in given]
        self.groups, self.rows = share_groups(session.weights.groups, parameters.per)
        self._experts = len(experts)
        start = torch.tensor([[*shares, parameters.base] if parameters.base else shares])
        self.free = start.log().repeat(len(self.groups), 1).requires_grad_(True)

    def coefficients(self) -> Tensor:
        """[groups, experts]; what is missing to 1 is the base's share."""
        return self.free.softmax(dim=1)[:, : self._experts]

    def penalty(self) -> Tensor:
        """None."""
        return torch.zeros(())

    def bound(self) -> None:
        """Shares have no bounds."""


class LearnedSoup:
    """Average of the experts, with shares that make the loss of validation texts small.

    Σ wₜθₜ with w = softmax(z), over the experts and, if it is given a share at the start, the base; z by Adam on the mean over
    domains of −log p(text | audio) / labels (the learned soup of Wortsman et al., arXiv 2203.05482; their temperature, which
    changes no transcript, is left out). Kept is the step with the lowest word error rate on held-out audio, the start among them.
    Written as task arithmetic: θ₀ + Σ wₜτₜ is the same.

    Invariants: no coefficient is negative and they add up to at most 1; identical experts come back unchanged; the order of the
    experts does not matter; the same seed gives the same shares on a processor.
    """

    name = "learned_soup"
    needs_texts = True
    parameters = LearnedSoupParameters

    def learn(self, session: Session, parameters: LearnedSoupParameters) -> Learned:
        """As ``LearningMethod.learn``."""
        objective = TextLoss(session.recognizer, session.inputs, parameters.transcripts)
        return train(session, _Shares(session, parameters), objective, parameters)


method = LearnedSoup()
