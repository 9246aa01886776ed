"""Steps along the gradient of a loss on speech, judged by the word error rate on held-out audio."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from asrmerge.errors import LearningError
from asrmerge.evaluation.counts import ErrorCounts, count_errors
from asrmerge.evaluation.normalizers import normalizer
from asrmerge.learning.method import PLACES, Criterion, Learned, LearningParameters, Look
from asrmerge.learning.objectives import Objective
from asrmerge.speech.manifest import Utterance

if TYPE_CHECKING:
    from asrmerge.learning.session import Session

logger = logging.getLogger(__name__)


class Parametrisation(Protocol):
    """Free parameters, and the coefficients that follow from them.

    Attributes:
        free: what Adam moves.
        groups: of coefficients, as recipes name them.
        rows: for each group of the session's weights, the number of its group here.
    """

    free: Tensor
    groups: tuple[str, ...]
    rows: Tensor

    def coefficients(self) -> Tensor:
        """[groups, experts], with gradient."""
        ...

    def penalty(self) -> Tensor:
        """What is added to the loss: a scalar."""
        ...

    def bound(self) -> None:
        """Bring the free parameters back to where they may be, after a step."""
        ...


def train(
    session: Session,
    parametrisation: Parametrisation,
    objective: Objective,
    settings: LearningParameters,
    *,
    hear_every: int = 1,
) -> Learned:
    """Minimise the objective by Adam; the coefficients with the best held-out audio are kept, the start among them.

    Every domain has the same share of each step. What is best has the lowest word error rate, pooled in each domain and averaged
    over the domains with texts; of equal ones, the lowest held-out loss; where no domain has texts, that loss alone decides.

    Args:
        hear_every: steps for which the model's own transcript of an utterance stands, where the objective listens.

    Raises:
        LearningError: the loss is NaN or infinite.
    """
    with session.running():
        judge = _Judge(session, objective, settings)
        transcripts = _Transcripts(session, hear_every)
        optimizer = torch.optim.Adam([parametrisation.free], lr=settings.learning_rate)
        losses: list[tuple[int, float]] = []
        judge.look(0, parametrisation.coefficients(), parametrisation.rows)
        for step, batches in enumerate(session.batches(settings.batch_seconds, settings.steps), start=1):
            coefficients = parametrisation.coefficients()[parametrisation.rows]
            session.weights.apply(coefficients.detach())
            heard = [transcripts.of(batch, step) if objective.listens else None for batch in batches]
            loss = session.loss(coefficients, objective, batches, heard)
            losses.append((step, _finite(float(loss.detach()), f"at step {step}")))
            optimizer.zero_grad()
            (loss + parametrisation.penalty()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            parametrisation.bound()
            session.on_step(step, settings.steps)
            looks = step % settings.evaluate_every == 0 or step == settings.steps
            if looks and judge.look(step, parametrisation.coefficients(), parametrisation.rows) and step < settings.steps:
                session.on_step(settings.steps, settings.steps)
                break
        return judge.learned(parametrisation.groups, losses)


class _Transcripts:
    """The merged model's own transcripts of what it learns from; each is made anew when it is too old."""

    def __init__(self, session: Session, every: int) -> None:
        self._session, self._every = session, every
        self._known: dict[Utterance, tuple[int, str]] = {}

    def of(self, utterances: Sequence[Utterance], step: int) -> list[str]:
        """By the live model, or by one of fewer than so many steps before."""
        old = [one for one in utterances if one not in self._known or step - self._known[one][0] >= self._every]
        for one, text in zip(old, self._session.inputs.transcribe(old) if old else [], strict=True):
            self._known[one] = step, text
        return [self._known[one][1] for one in utterances]


class _Judge:
    """Looks at the held-out audio, keeps the best coefficients, says when to stop."""

    def __init__(self, session: Session, objective: Objective, settings: LearningParameters) -> None:
        self._session, self._objective, self._settings = session, objective, settings
        self._normalize = normalizer(settings.normalizer)
        without = [domain.name for domain in session.domains if not domain.has_texts]
        self._criterion: Criterion = "held-out entropy" if len(without) == len(session.domains) else "held-out WER"
        if without:
            how = "the entropy decides" if self._criterion == "held-out entropy" else "the others' word errors decide"
            logger.warning("no texts in the audio of %s: %s what is kept", ", ".join(without), how)
        self._looks: list[Look] = []
        self._best: list[list[float]] = []
        self._kept = self._flat = 0

    def look(self, step: int, coefficients: Tensor, rows: Tensor) -> bool:
        """Measure the coefficients [groups, experts] after ``step``; True when nothing has improved for long enough."""
        rounded = [[round(value, PLACES) for value in row] for row in coefficients.tolist()]
        self._session.weights.apply([rounded[row] for row in rows.tolist()])
        wer, loss = {}, {}
        for domain in self._session.domains:
            heard = dict(zip(domain.held_out, self._session.inputs.transcribe(domain.held_out), strict=True))
            if domain.has_texts:
                wer[domain.name] = self._wer(heard)
            measured = self._session.held_out_loss(self._objective, domain, heard, self._settings.batch_seconds)
            loss[domain.name] = _finite(measured, f"of {domain.name} after step {step}")
        look = Look(step, wer, loss)
        better = not self._looks or _rank(look) < min(map(_rank, self._looks))
        self._looks.append(look)
        self._flat = 0 if better else self._flat + 1
        if better:
            self._best, self._kept = rounded, step
        logger.info("after step %d: %s %.4f, loss %.4f", step, self._criterion, look.figure, look.macro_loss)
        return self._flat >= self._settings.patience

    def learned(self, groups: Sequence[str], losses: Sequence[tuple[int, float]]) -> Learned:
        """The best of all looks."""
        experts = self._session.weights.experts
        found = {group: dict(zip(experts, row, strict=True)) for group, row in zip(groups, self._best, strict=True)}
        return Learned(found, tuple(losses), tuple(self._looks), self._kept, self._criterion)

    def _wer(self, heard: dict[Utterance, str]) -> float:
        counts = [count_errors(self._normalize(one.text), self._normalize(text)) for one, text in heard.items()]
        return sum(counts, ErrorCounts()).wer


def _rank(look: Look) -> tuple[float, float]:
    return look.figure, look.macro_loss


def _finite(loss: float, where: str) -> float:
    if not math.isfinite(loss):
        raise LearningError(
            f"The loss {where} is {loss}: early on, check base and experts with asrmerge evaluate; later, lower learning_rate."
        )
    return loss
