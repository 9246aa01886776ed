"""Coefficients learnt from audio without texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from asrmerge.learning.method import Learned
from asrmerge.learning.methods._coefficients import CoefficientParameters, FreeCoefficients
from asrmerge.learning.objectives import Entropy
from asrmerge.learning.training import train

if TYPE_CHECKING:
    from asrmerge.learning.session import Session


class AdaMergingParameters(CoefficientParameters):
    hear_every: int = Field(
        default=20, ge=1, description="steps for which the model's own transcript of an utterance stands (Whisper only)"
    )


class AdaMerging:
    """Task arithmetic with coefficients per layer and expert that make the model sure of what it hears, without texts.

    θ(λ) = θ₀ + Σ λ_lt τ_t in layer l; λ by Adam on the mean over domains of the entropy of p(· | audio; θ(λ)) (AdaMerging, Yang
    et al., arXiv 2310.02575). In speech: of CTC, the mean over the frames whose best token is no blank; of Whisper, over the
    tokens of the merged model's own greedy transcript, which is made anew every so many steps. Texts are not learnt from. Where a
    corpus has them, the word error rate of its held-out part says which step is kept; where none has, the held-out entropy does,
    in which an utterance with an empty transcript counts as log(vocabulary): a model that says nothing is sure of it.

    Invariants: texts change nothing but what is kept; the order of the experts does not matter; the same seed gives the same
    coefficients on a processor.
    """

    name = "adamerging"
    needs_texts = False
    parameters = AdaMergingParameters

    def learn(self, session: Session, parameters: AdaMergingParameters) -> Learned:
        """As ``LearningMethod.learn``."""
        objective = Entropy(session.recognizer, session.inputs)
        coefficients = FreeCoefficients(session, parameters)
        return train(session, coefficients, objective, parameters, hear_every=parameters.hear_every)


method = AdaMerging()
