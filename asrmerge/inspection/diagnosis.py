"""What a merged model's activations and weights are beside its experts': plain figures, JSON both ways."""

from __future__ import annotations

from typing import Literal

from asrmerge.validation import Section

COLLAPSED = 0.75
"""A layer collapses where its outputs' variance, or their effective rank, falls below this share of the experts'.

A convention of ours, no law: averages of fine-tunes of one base that recognise speech well keep 95 % and more, while averages of
models without a common base lose most of it (REPAIR, arXiv 2211.08403).
"""
EXPLODED = 1.5
"""A layer explodes where its variance is above this multiple of the experts', as where task vectors are scaled too far."""
MUTED = 0.1
"""Part of a layer is muted where more than this share of one linear map's units vary less than half as much as in the experts."""

Ratio = float | None  # None where the experts have nothing to compare with


class DomainActivations(Section):
    """Outputs of one layer on one domain's audio: of the merged model, and of the domain's own expert.

    Attributes:
        variance, expert_variance: summed over units.
        effective_rank, expert_effective_rank: exp of the entropy of the covariance's spectrum.
    """

    variance: float
    expert_variance: float
    effective_rank: float
    expert_effective_rank: float


class LayerDiagnosis(Section):
    """One layer of the merged model beside the experts', each of which hears its own domain.

    Attributes:
        layer: ``encoder.N`` or ``decoder.N``.
        variance_ratio: Σ over domains of the outputs' total variance, the merged model's over the experts'.
        effective_rank, expert_effective_rank: means over domains.
        rank_ratio: the one over the other.
        quiet_units: share of the outputs of the layer's linear maps whose standard deviation is below half of the experts'.
        quietest_map: the map inside of the layer with the greatest such share; None where no unit is quiet.
        quietest_units: that share.
        norm_ratio: ‖θ_merged‖ over the mean ‖θ_expert‖, of all the layer's parameters.
        task_vector_ratio: ‖τ_merged‖ over the mean ‖τ_expert‖; None without a base.
        domains: the figures that the ratios come from.
    """

    layer: str
    variance_ratio: Ratio
    effective_rank: float
    expert_effective_rank: float
    rank_ratio: Ratio
    quiet_units: float
    quietest_map: str | None
    quietest_units: float
    norm_ratio: Ratio = None
    task_vector_ratio: Ratio = None
    domains: dict[str, DomainActivations]

    @property
    def least(self) -> float:
        """The lower one of both ratios; 1 where there is none."""
        return min((value for value in (self.variance_ratio, self.rank_ratio) if value is not None), default=1.0)

    @property
    def collapsed(self) -> bool:
        """Whether its variance or its effective rank is too low."""
        return self.least < COLLAPSED

    @property
    def exploded(self) -> bool:
        """Whether its variance is too great."""
        return self.variance_ratio is not None and self.variance_ratio > EXPLODED

    @property
    def muted(self) -> bool:
        """Whether too many units of one of its maps vary too little."""
        return self.quietest_units > MUTED


class GroupNorms(Section):
    """Euclidean norms inside of one structural group; ``all`` is the whole model.

    Attributes:
        group: as ``asrmerge.merging.structure.Place.group``, or a layer.
        norm, expert_norm: ‖θ‖ of the merged model, and the mean of the experts'.
        norm_ratio: the one over the other.
        task_vector, expert_task_vector, task_vector_ratio: the same of ‖τ‖, the distance to the base; None without one.
    """

    group: str
    norm: float
    expert_norm: float
    norm_ratio: Ratio
    task_vector: float | None = None
    expert_task_vector: float | None = None
    task_vector_ratio: Ratio = None


class Diagnosis(Section):
    """A merged model beside its experts.

    Attributes:
        merged, base: what they were opened from; no base: None.
        experts: name → what it was opened from.
        utterances: domain → how many the merged model heard of it.
        layers: in the order of the forward pass.
        groups: the structural groups, from the input to the output.
        overall: the whole model.
        sentence: where activations collapse, or that they do not.
    """

    merged: str
    base: str | None
    experts: dict[str, str]
    utterances: dict[str, int]
    layers: tuple[LayerDiagnosis, ...]
    groups: tuple[GroupNorms, ...]
    overall: GroupNorms
    sentence: str

    @property
    def tone(self) -> Literal["good", "bad", "neutral"]:
        """Whether the activations speak for the merge or against it."""
        if not self.layers:
            return "neutral"
        return "bad" if any(layer.collapsed or layer.exploded or layer.muted for layer in self.layers) else "good"
