"""What a method is that learns a merge from audio, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Parameters, Record

if TYPE_CHECKING:
    from asrmerge.learning.session import Session

Criterion = Literal["held-out WER", "held-out entropy"]
WHOLE_MODEL = "*"  # the group of coefficients that hold everywhere
PLACES = 6  # decimal places of a coefficient: what is looked at is what is written


class LearningParameters(Parameters):
    """What all methods have that take steps along a gradient."""

    steps: int = Field(default=100, ge=1, description="at most; ends earlier when the held-out audio gets no better")
    learning_rate: float = Field(default=0.01, gt=0, description="Adam's: about what a coefficient moves in a step")
    batch_seconds: float = Field(default=24.0, gt=0, description="seconds of audio of each domain in a step")
    evaluate_every: int = Field(default=10, ge=1, description="steps between looks at the held-out audio")
    patience: int = Field(default=3, ge=1, description="looks without improvement before the end")
    normalizer: str = Field(default="whisper", description="of texts and transcripts, for the held-out WER")


@dataclass(frozen=True)
class Look:
    """One look at the held-out audio.

    Attributes:
        wer: word error rate per domain with texts, pooled, as a fraction.
        loss: what the method makes small, per domain.
    """

    step: int
    wer: Mapping[str, float]
    loss: Mapping[str, float]

    @property
    def macro_wer(self) -> float | None:
        """The mean over the domains with texts; None where there is none."""
        return sum(self.wer.values()) / len(self.wer) if self.wer else None

    @property
    def macro_loss(self) -> float:
        """The mean over the domains."""
        return sum(self.loss.values()) / len(self.loss)

    @property
    def figure(self) -> float:
        """What decides: the lower, the better."""
        return self.macro_loss if self.macro_wer is None else self.macro_wer


@dataclass(frozen=True)
class Learned:
    """What was learnt.

    Attributes:
        coefficients: group as recipes name it, ``*`` for the whole model → expert → λ, of task arithmetic.
        losses: by step, before it was taken.
        looks: at the held-out audio, the first at the start, before any step.
        kept: the step after which the coefficients are those.
        criterion: what decided.
    """

    coefficients: Mapping[str, Mapping[str, float]]
    losses: tuple[tuple[int, float], ...]
    looks: tuple[Look, ...]
    kept: int
    criterion: Criterion

    @property
    def summary(self) -> str:
        """How it went, in one line."""
        start, best = self.looks[0], next(look for look in self.looks if look.step == self.kept)
        shown = [f"{100 * one.figure:.2f} %" if one.macro_wer is not None else f"{one.figure:.4f} nats" for one in (start, best)]
        steps = self.losses[-1][0]
        if self.kept == 0:
            return f"{self.criterion} {shown[0]} at the start, which is kept: none of {steps} steps bettered it"
        return f"{self.criterion} {shown[0]} at the start, {shown[1]} after step {self.kept} of {steps}, which is kept"


@dataclass(frozen=True)
class StageReport:
    """What part of a model was merged by itself, and from how much.

    Attributes:
        name: of a layer, or of a module outside of layers.
        maps: linear maps whose inputs were heard.
        utterances: of all domains; 0 where nothing had to be heard.
        fewest_positions: of a map and a domain, the least of all.
        seconds: that it took.
    """

    name: str
    maps: int
    utterances: int
    fewest_positions: int
    seconds: float


@dataclass(frozen=True, eq=False)
class LearnedWeights:
    """A merge that no coefficients describe.

    Attributes:
        tensors: what differs from the base, by the names of a checkpoint; float32.
        stages: in the order in which they were merged.
        records: what was noteworthy of a parameter, by its name.
    """

    tensors: Mapping[str, Tensor]
    stages: tuple[StageReport, ...]
    records: Mapping[str, Record]

    @property
    def summary(self) -> str:
        """How it went, in one line."""
        heard = [one for one in self.stages if one.utterances]
        most = max((one.utterances for one in heard), default=0)
        return f"{sum(one.maps for one in heard)} linear maps in {len(heard)} stages, each from {most} utterances"


class LearningMethod(Protocol):
    """A method that learns from audio through the merged model's forward pass.

    One that holds no audio out says ``holds_out = False``: it is given all of it to learn from.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_texts(self) -> bool:
        """Whether every domain's audio must have its texts."""

    @property
    def parameters(self) -> type[Parameters]: ...

    def learn(self, session: Session, parameters: Any) -> Learned | LearnedWeights:
        """Learn, with the models and the audio of ``session``.

        Raises:
            ConfigError: a start that the method cannot take.
            LearningError: the loss, or what a model computes, is NaN or infinite.
        """
        ...


def holds_out(method: LearningMethod) -> bool:
    """Whether it leaves a part of the audio out, to decide by what is kept."""
    return bool(getattr(method, "holds_out", True))
