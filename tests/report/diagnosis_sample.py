"""Diagnoses of merges without any model: layers with figures that a test chooses."""

from __future__ import annotations

from collections.abc import Sequence

from asrmerge.inspection.collapse import collapse_sentence
from asrmerge.inspection.diagnosis import Diagnosis, DomainActivations, GroupNorms, LayerDiagnosis

ENCODER = tuple(f"encoder.{number}" for number in range(6))
DECODER = tuple(f"decoder.{number}" for number in range(4))
DOMAINS = ("conversation", "technical", "medical", "legal")


def layer(
    name: str,
    variance: float | None = 1.0,
    rank: float | None = 1.0,
    *,
    quiet: float = 0.0,
    norm: float = 1.0,
    task_vector: float | None = 0.5,
) -> LayerDiagnosis:
    """A layer with these ratios; a share ``quiet`` of the units of its fc1."""
    domains = {
        domain: DomainActivations(
            variance=(variance or 0.0) * 40,
            expert_variance=0.0 if variance is None else 40.0,
            effective_rank=(rank or 0.0) * 50,
            expert_effective_rank=0.0 if rank is None else 50.0,
        )
        for domain in DOMAINS
    }
    return LayerDiagnosis(
        layer=name,
        variance_ratio=variance,
        effective_rank=(rank or 0.0) * 50,
        expert_effective_rank=0.0 if rank is None else 50.0,
        rank_ratio=rank,
        quiet_units=quiet / 4,
        quietest_map="fc1" if quiet else None,
        quietest_units=quiet,
        norm_ratio=norm,
        task_vector_ratio=task_vector,
        domains=domains,
    )


def diagnosis(layers: Sequence[LayerDiagnosis], base: str | None = "openai/whisper-tiny") -> Diagnosis:
    """A diagnosis with these layers, and norms of two groups."""
    moved = {} if base is None else {"task_vector": 1.5, "expert_task_vector": 3.0, "task_vector_ratio": 0.5}
    groups = [GroupNorms(group=name, norm=60.0, expert_norm=61.0, norm_ratio=60 / 61, **moved) for name in ("encoder.0", "head")]
    return Diagnosis(
        merged="runs/merged",
        base=base,
        experts={name: f"runs/experts/{name}" for name in DOMAINS},
        utterances=dict.fromkeys(DOMAINS, 20),
        layers=tuple(layers),
        groups=tuple(groups),
        overall=groups[0].model_copy(update={"group": "all"}),
        sentence=collapse_sentence(layers),
    )


def healthy() -> Diagnosis:
    """A merge in which nothing collapses."""
    return diagnosis([layer(name, 0.96 + 0.01 * place, 0.98 + 0.005 * place) for place, name in enumerate((*ENCODER, *DECODER))])


def collapsing() -> Diagnosis:
    """A merge that collapses from the fourth layer on, most in decoder.2."""
    variances = (0.97, 0.93, 0.84, 0.71, 0.66, 0.62, 0.55, 0.43, 0.31, 0.38)
    ranks = (0.99, 0.97, 0.95, 0.92, 0.9, 0.88, 0.8, 0.74, 0.69, 0.7)
    norms = [0.99 - 0.004 * place for place in range(10)]
    return diagnosis(
        [
            layer(name, variance, rank, norm=norm, task_vector=0.52 + 0.01 * place)
            for place, (name, variance, rank, norm) in enumerate(zip((*ENCODER, *DECODER), variances, ranks, norms, strict=True))
        ]
    )
