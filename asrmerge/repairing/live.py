"""Repairing a model in memory: maps are measured and corrected one after another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from asrmerge.learning.listening import Listener
from asrmerge.repairing.maps import LiveMap, plan_stages
from asrmerge.repairing.moments import Correction, MomentCollector, Moments, correct, interpolate
from asrmerge.repairing.settings import RepairSettings
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.watching import Look

Audio = Mapping[str, Sequence[Utterance]]  # by domain


@dataclass(frozen=True)
class RepairedMap:
    """What became of one map.

    Attributes:
        least, median, greatest: of its units' factors.
        clamped: units whose factor is at a bound because it would have been beyond.
        left_alone: units that hardly vary.
        has_bias: else the means stay as they are.
    """

    name: str
    units: int
    least: float
    median: float
    greatest: float
    clamped: int
    left_alone: int
    has_bias: bool


@dataclass(frozen=True, eq=False)
class Measured:
    """A live model that is listened to."""

    model: nn.Module
    listener: Listener
    look: Look

    def moments(self, maps: Collection[str], utterances: Sequence[Utterance]) -> dict[str, Moments]:
        """Of the outputs of these maps.

        Raises:
            StatisticsError: they are NaN or infinite.
        """
        modules = dict(self.model.named_modules())
        collector = MomentCollector({name: modules[name] for name in maps})
        self.listener.listen(utterances, [collector], maps, self.look)
        return collector.moments()


def repair_model(
    measured: Measured,
    maps: Mapping[str, LiveMap],
    targets: Mapping[str, Moments],
    audio: Audio,
    shares: Mapping[str, float],
    settings: RepairSettings,
    on_stage: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[RepairedMap], dict[str, Tensor]]:
    """Correct the maps of a live model in the order of the forward pass, each measured when all before it are corrected.

    Maps of the same inputs, such as those of queries, keys and values, are corrected together. The moments are measured on each
    domain's audio by itself and interpolated as the targets were, so that a model which has the experts' moments stays as it is.

    Args:
        targets: by map.
        shares: of the domains; they add up to 1.

    Returns:
        What became of each map, and what changed, by the names of a checkpoint, float32.
    """
    stages = plan_stages([*maps], measured.look)
    encoder = measured.listener.encoder_parameters()
    repaired: list[RepairedMap] = []
    tensors: dict[str, Tensor] = {}
    for number, stage in enumerate(stages):
        if not any(id(part) in encoder for later in stages[number:] for name in later for part in maps[name].weight):
            measured.listener.encoder_is_final()
        found = {domain: measured.moments(stage, heard) for domain, heard in audio.items()}
        for name in stage:
            one = maps[name]
            merged = interpolate({domain: moments[name] for domain, moments in found.items()}, shares)
            correction = correct(merged, targets[name], settings.lower, settings.upper, has_bias=one.bias is not None)
            tensors |= one.repair(correction)
            repaired.append(_described(one, correction))
        on_stage(number + 1, len(stages))
    return repaired, tensors


def _described(one: LiveMap, correction: Correction) -> RepairedMap:
    factor = correction.factor
    return RepairedMap(
        name=one.name,
        units=len(factor),
        least=round(float(factor.min()), 6),
        median=round(float(factor.median()), 6),
        greatest=round(float(factor.max()), 6),
        clamped=int(correction.clamped.sum()),
        left_alone=int(correction.left_alone.sum()),
        has_bias=one.bias is not None,
    )
