"""What an inspection found: plain figures, JSON both ways."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from asrmerge.inspection.diagnosis import Diagnosis

Reference = Literal["base", "mean"]
Verdict = Literal["same base", "permutation", "different base", "unavailable"]
Matrix = tuple[tuple[float, ...], ...]  # [expert, expert], symmetric


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Geometry(_Frozen):
    """Task vectors inside of one structural group, or of the whole model. Experts are in the inspection's order.

    Attributes:
        group: as ``asrmerge.merging.structure.Place.group``; ``all`` for the whole model.
        parameters: entries of the group's parameters; a weight-normed weight counts as the product that it stands for.
        reference_norm: of the base's parameters; without a base, of the experts' mean.
        norms: ‖τₜ‖, the distance of each expert to the reference.
        ratios: norms over reference_norm; None where that is zero.
        cosines: of task vectors; None where one of them is zero.
        conflicts: share of all entries in which two experts' task vectors have opposite signs, zero being no sign.
        conflict_magnitudes: share of the two experts' Σ|τ| that lies in such entries.
        contested: share of all entries in which at least two experts have opposite signs.
        contested_magnitude: share of all experts' Σ|τ| that lies in such entries.
    """

    group: str
    parameters: int
    reference_norm: float
    norms: tuple[float, ...]
    ratios: tuple[float | None, ...]
    cosines: tuple[tuple[float | None, ...], ...]
    conflicts: Matrix
    conflict_magnitudes: Matrix
    contested: float
    contested_magnitude: float


class PartMatch(_Frozen):
    """How the units, or the heads, of one part of a layer match those of the reference.

    Attributes:
        stack: ``encoder`` or ``decoder``.
        part: ``ffn``, ``self`` or ``cross`` (attention).
        kind: ``units`` of a feed-forward layer, ``heads`` of an attention.
        count: how many there are.
        in_place: how many of them match the one in their own place.
        cosine: of the part's weights with those of the reference, as they are stored.
        matched_cosine: the same after the permutation that was found.
        solved: the permutation is the best one; otherwise every unit was matched with its nearest, for the verdict was clear.
    """

    stack: str
    layer: int
    part: str
    kind: Literal["units", "heads"]
    count: int
    in_place: int
    cosine: float
    matched_cosine: float
    solved: bool


class BaseCheck(_Frozen):
    """Whether an expert was fine-tuned from the reference: ``units`` and ``heads`` are the shares that stay in place."""

    expert: str
    reference: str
    verdict: Verdict
    units: float | None
    heads: float | None
    parts: tuple[PartMatch, ...]
    sentence: str


class Inspection(_Frozen):
    """Everything that was found. Where ``incompatible`` is not empty, nothing further was read.

    Attributes:
        model_type: the transformers model type.
        base: what the base was opened from; None without one.
        experts: name → what it was opened from.
        dtypes: dtypes in which each model's tensors are stored, by name of the model (``base`` for the base).
        reference: what task vectors start from: the base, or the mean of the experts.
        incompatible: expert → why it can't be merged with the base (without one, with the first expert) and those before it.
        lacking_tokens: model → tokens of the others whose rows it borrows; empty where all have one vocabulary.
        tensors: parameters that a merge would compute, by name, that were compared.
        overall: the whole model.
        groups: the structural groups, from the input to the output.
        identical: parameters that are the same in all models.
        frozen: expert → parameters that are the base's; empty without a base.
        changed_by_one: expert → parameters that only this expert changed; empty without a base.
        differing_constants: tensors that a merge copies (positions, counters), but which differ between the models.
        base_checks: one for each expert; without a base, for each but the first.
        diagnosis: a merge of the experts beside them, where one and audio were given.
    """

    model_type: str
    base: str | None
    experts: dict[str, str]
    dtypes: dict[str, tuple[str, ...]]
    reference: Reference
    incompatible: dict[str, str]
    lacking_tokens: dict[str, tuple[str, ...]] = {}
    tensors: tuple[str, ...] = ()
    overall: Geometry | None = None
    groups: tuple[Geometry, ...] = ()
    identical: tuple[str, ...] = ()
    frozen: dict[str, tuple[str, ...]] = {}
    changed_by_one: dict[str, tuple[str, ...]] = {}
    differing_constants: tuple[str, ...] = ()
    base_checks: tuple[BaseCheck, ...] = ()
    diagnosis: Diagnosis | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The experts' names, in the order of all figures."""
        return tuple(self.experts)

    @property
    def compatible(self) -> bool:
        """Whether the models have one architecture and one vocabulary."""
        return not self.incompatible
