"""Coefficients learnt from texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from asrmerge.experts.transcripts import TranscriptStyle
from asrmerge.learning.method import Learned
from asrmerge.learning.methods._coefficients import CoefficientParameters, FreeCoefficients
from asrmerge.learning.objectives import TextLoss
from asrmerge.learning.training import train

if TYPE_CHECKING:
    from asrmerge.learning.session import Session


class LearnedCoefficientsParameters(CoefficientParameters):
    transcripts: TranscriptStyle = Field(
        default="written", description="texts as written, in lower case, or plain words: as the experts write"
    )


class LearnedCoefficients:
    """Task arithmetic with coefficients per layer and expert that make the loss of validation texts small.

    θ(λ) = θ₀ + Σ λ_lt τ_t in layer l; λ by Adam on the mean over domains of −log p(text | audio; θ(λ)) / labels, as in supervised
    AdaMerging (Yang et al., arXiv 2310.02575, which learns from the test's unlabelled inputs; here it is validation audio). Kept
    is the step with the lowest word error rate on held-out audio, the start among them, so that there it is never worse.

    Invariants: the order of the experts does not matter; the same seed gives the same coefficients on a processor; a start of 0
    that no step betters returns the base, a one-hot start that expert.
    """

    name = "learned_coefficients"
    needs_texts = True
    parameters = LearnedCoefficientsParameters

    def learn(self, session: Session, parameters: LearnedCoefficientsParameters) -> Learned:
        """As ``LearningMethod.learn``."""
        objective = TextLoss(session.recognizer, session.inputs, parameters.transcripts)
        return train(session, FreeCoefficients(session, parameters), objective, parameters)


method = LearnedCoefficients()
