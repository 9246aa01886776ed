"""RegMean layer by layer, each layer from what the layers before it, merged already, make of the audio."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.errors import ConfigError, LearningError, ManifestError
from asrmerge.learning.audio import draw
from asrmerge.learning.listening import Listener
from asrmerge.learning.method import LearnedWeights, StageReport
from asrmerge.learning.stages import Stage, plan_stages, shares_within, write
from asrmerge.merging.block import Block, Record, RestoredExperts
from asrmerge.merging.engine import merge_block
from asrmerge.merging.live import join_affine
from asrmerge.merging.methods._sphere import normalize_weights
from asrmerge.merging.methods.regmean import RegMeanParameters
from asrmerge.merging.registry import get_method
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.collectors import GramCollector
from asrmerge.statistics.modules import linear_maps
from asrmerge.statistics.settings import StatisticsSettings
from asrmerge.statistics.watching import Look

if TYPE_CHECKING:
    from asrmerge.learning.session import Session

_WEIGHT = ".weight"
Grams = Mapping[str, Tensor]  # by linear map, the mean of [x, 1][x, 1]ᵀ


@dataclass(frozen=True, eq=False)
class _Heard:
    """What one expert's stage was given: Gram matrices, and the positions of the map that has the fewest."""

    grams: Grams
    positions: int


class RegMeanPlusPlusParameters(RegMeanParameters):
    padding_every: int = Field(
        default=10,
        ge=0,
        description="of the silence that fills a window, every so-and-so-many-th position counts as one of speech; 0: none",
    )
    utterances: int | None = Field(default=None, ge=1, description="at most so many of each domain, drawn by the seed")


class RegMeanPlusPlus:
    """RegMean layer by layer, from what the layers before, merged already, make of each domain's audio.

    W = (Σ wₜWₜG̃ₜ)(Σ wₜG̃ₜ)⁻¹ as in ``regmean``, but with other inputs: those of expert t's own layer when it is given, on domain
    t's audio, what the merged layers before it compute (RegMean++, arXiv 2508.03121). So each layer is fitted to the inputs that
    it will have in the merged model, errors of the layers before included. Inside of a layer the inputs of each linear map are
    computed by expert t alone, as in the paper: maps of one layer are merged at once, so none of them is known when another is.

    Stages are the layers of encoder and decoder, and outside of them each module by itself (convolutions, projections, norms,
    embeddings, head), in the order of the forward pass. What has no Gram matrix gets the weighted mean. Decoders that write the
    text are fed the corpus's texts. With λ other than 1 the layers before are the scaled ones. All audio is learnt from.

    Cost: a pass for each stage and domain that ends where the stage does, together about L/2 whole passes for L layers; states of
    Whisper's merged encoder are kept. Memory: base and task vectors in float32, and one stage's Gram matrices of every expert.

    Invariants: the first stage is that of ``regmean`` with the same audio; identical experts come back, and so does the one that
    has all the weight; the order of the experts does not matter; on a processor the same recipe gives the same bytes.
    """

    name = "regmean_plus_plus"
    needs_texts = False
    holds_out = False
    parameters = RegMeanPlusPlusParameters

    def learn(self, session: Session, parameters: RegMeanPlusPlusParameters) -> LearnedWeights:
        """As ``LearningMethod.learn``.

        Raises:
            ConfigError: a domain without an expert, or weights that are no shares.
            ManifestError: a decoder, and audio without texts.
            LearningError: a model computes NaN or infinity.
        """
        shares = _shares(self.name, session)
        audio = {name: _choose(session, name, parameters.utterances) for name in shares}
        listener = Listener(session.recognizer, session.inputs, padding_every=parameters.padding_every)
        look = listener.look(next(iter(audio.values()))[0])
        stages = plan_stages(session.recognizer.model, session.weights.residents, look)
        encoder = listener.encoder_parameters()
        tensors: dict[str, Tensor] = {}
        reports = []
        records: dict[str, Record] = {}
        for number, stage in enumerate(stages):
            if not any(encoder & later.parameters() for later in stages[number:]):
                listener.encoder_is_final()
            began = time.monotonic()
            maps = _maps(session, stage, look)
            heard = {name: _hear(session, listener, stage, maps, look, name, audio[name]) for name in shares if maps}
            grams = {name: one.grams for name, one in heard.items()}
            tensors |= merge_stage(stage, shares, grams, parameters, records)
            reports.append(
                StageReport(
                    stage.name,
                    len(maps),
                    utterances=sum(len(audio[name]) for name in heard),
                    fewest_positions=min((one.positions for one in heard.values()), default=0),
                    seconds=round(time.monotonic() - began, 2),
                )
            )
            session.on_step(number + 1, len(stages))
        return LearnedWeights(tensors, tuple(reports), records)


@torch.no_grad()
def merge_stage(
    stage: Stage,
    shares: Mapping[str, float],
    grams: Mapping[str, Grams],
    parameters: RegMeanParameters,
    records: dict[str, Record],
) -> dict[str, Tensor]:
    """Merge a stage's parameters by RegMean into the live model; the merged tensors by the names of a checkpoint, float32.

    Args:
        shares: expert → weight, none 0.
        grams: expert → linear map → the mean of [x, 1][x, 1]ᵀ; of the maps that have one.
        records: what was noteworthy is added to it.
    """
    method, names = get_method("regmean"), sorted(shares)
    tensors: dict[str, Tensor] = {}
    for one in join_affine(stage.residents):
        deltas = [one.deltas[name] for name in names]
        block = Block(
            one.unit.name,
            one.base,
            RestoredExperts(one.base, deltas),
            [shares[name] for name in names],
            deltas,
            names,
            one.place,
            grams=_grams_of(one.unit.name, one.base, [grams.get(name, {}) for name in names]) if one.unit.affine else None,
            record=lambda record, name=one.unit.name: records.__setitem__(name, record),  # type: ignore[misc]
        )
        tensors |= write(one, merge_block(method, block, parameters))
    return tensors


def _grams_of(unit: str, matrix: Tensor, grams: Sequence[Grams]) -> list[Tensor] | None:
    """The experts' Gram matrices of a linear map [m, n], without the row and column of the bias where it has none."""
    found = [one.get(unit.removesuffix(_WEIGHT)) for one in grams]
    size = matrix.shape[1]
    known = [gram[:size, :size].contiguous() for gram in found if gram is not None]
    return known if len(known) == len(grams) else None


def _shares(method: str, session: Session) -> dict[str, float]:
    """The experts' shares of the merge; those that have none are left out."""
    experts = session.weights.experts
    for domain in session.domains:
        if domain.name not in experts:
            raise ConfigError(
                f"{method}: the audio of {domain.name} has no expert to be near to; leave it out, or list the base as the expert "
                f"{domain.name} with that audio."
            )
    shares = normalize_weights(method, [session.start.get(name, 1.0) for name in experts])
    return {name: share for name, share in zip(experts, shares, strict=True) if share > 0}


def _choose(session: Session, name: str, most: int | None) -> list[Utterance]:
    """What of a domain's audio is heard, in the order of the corpus."""
    domain = next(domain for domain in session.domains if domain.name == name)
    if session.recognizer.model.config.is_encoder_decoder and not domain.has_texts:
        raise ManifestError(f"the audio of {name} has no texts, and a decoder must be fed what is said: add them.")
    return draw(domain.utterances, most, session.seed)


def _maps(session: Session, stage: Stage, look: Look) -> list[str]:
    """The stage's linear maps that have inputs to be heard, as they are called."""
    model = session.recognizer.model
    known = {one.module for one in stage.residents} & linear_maps(model).keys() & look.sequences
    return sorted(known, key=look.place)


def _hear(
    session: Session, listener: Listener, stage: Stage, maps: Sequence[str], look: Look, expert: str, audio: Sequence[Utterance]
) -> _Heard:
    """The inputs of the expert's own stage behind the merged ones; maps of the same inputs have the same Gram matrix."""
    model = session.recognizer.model
    shares = shares_within(look.shares, maps)
    others = tuple(name for name, _ in model.named_parameters() if name.rpartition(".")[0] not in maps)
    collector = GramCollector(model, StatisticsSettings(kinds=("grams",), unchanged=others), shares)
    stage.put(expert)
    listener.listen(audio, [collector], [stage.name], look)
    found, positions = collector.result(1)
    for name, gram in found.items():
        if not bool(torch.isfinite(gram).all()):
            raise LearningError(
                f"The inputs of {name} are NaN or infinite on the audio of {expert}: check its expert with asrmerge evaluate, "
                "and merge closer to the base by a lower scale."
            )
    grams = {name: found[leader] for name in maps if (leader := shares.get(name, name)) in found}
    return _Heard(grams, min((int(count) for count in positions.values()), default=0))


method = RegMeanPlusPlus()
