"""Where each parameter of a speech model sits: its structural group, its role and its depth, from names and shapes alone.

The groups are those that the recognisers tell from the module tree; names are compared segment by segment, so ``encoder``
is not found in ``encoder_attn``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["linear", "convolution", "embedding", "norm", "bias", "head", "other"]

_WHISPER_PARTS = {"self_attn": "self", "encoder_attn": "cross"}


@dataclass(frozen=True)
class Place:
    """Where a parameter sits.

    Attributes:
        group: ``frontend``, ``positional``, ``encoder.N``, ``encoder``, ``decoder.N.self``, ``decoder.N.cross``,
            ``decoder.N.ffn``, ``decoder``, ``embedding``, ``norms`` or ``head``.
        role: what it does there.
        stack: ``encoder`` or ``decoder`` where it is inside of one of their layers, norms included; else None.
        layer: number of that layer, from 0.
        layers: how many layers that stack has.
    """

    group: str = "head"
    role: Role = "other"
    stack: str | None = None
    layer: int | None = None
    layers: int | None = None

    @property
    def depth(self) -> float | None:
        """0 in the stack's first layer, 1 in its last (and in its only one); None outside of layers."""
        if self.layer is None or self.layers is None:
            return None
        return self.layer / (self.layers - 1) if self.layers > 1 else 1.0

    @property
    def position(self) -> float:
        """The depth; outside of layers, 1 for what follows them (final norms, head) and 0 for everything else."""
        if self.depth is not None:
            return self.depth
        return 1.0 if self.group in ("head", "norms") else 0.0


NOWHERE = Place()


def plan_places(shapes: Mapping[str, Sequence[int]], model_type: str) -> dict[str, Place]:
    """The place of every parameter.

    Args:
        shapes: of a whole model's parameters, by canonical name.
        model_type: as in ``config.json``.
    """
    where = {name: _stack_and_layer(name.split(".")) for name in shapes}
    layers: dict[str, int] = {}
    for stack, layer in filter(None, where.values()):
        layers[stack] = max(layers.get(stack, 0), layer + 1)
    places = {}
    for name, shape in shapes.items():
        segments = name.split(".")
        group = _whisper_group(segments) if model_type == "whisper" else _ctc_group(segments)
        role, found = _role(segments, shape), where[name]
        places[name] = Place(group, role) if found is None else Place(group, role, *found, layers[found[0]])
    return places


def matches(group: str, wanted: str) -> bool:
    """Whether ``group`` is ``wanted`` or inside of it: ``decoder`` holds ``decoder.0.self``; ``*`` stands for one segment."""
    have, want = group.split("."), wanted.split(".")
    return len(have) >= len(want) and all(expected in ("*", found) for found, expected in zip(have, want, strict=False))


def _stack_and_layer(segments: Sequence[str]) -> tuple[str, int] | None:
    for one, two, three in zip(segments, segments[1:], segments[2:], strict=False):
        if one in ("encoder", "decoder") and two == "layers" and three.isdigit():
            return one, int(three)
    return None


def _whisper_group(segments: Sequence[str]) -> str:
    found = _stack_and_layer(segments)
    if _is_norm(segments):
        return "norms"
    if found is not None:
        stack, layer = found
        if stack == "encoder":
            return f"encoder.{layer}"
        part = next((_WHISPER_PARTS[segment] for segment in segments if segment in _WHISPER_PARTS), "ffn")
        return f"decoder.{layer}.{part}"
    if "proj_out" in segments or "embed_tokens" in segments:
        return "embedding"
    return "frontend" if "encoder" in segments else "decoder"


def _ctc_group(segments: Sequence[str]) -> str:
    found = _stack_and_layer(segments)
    if any(segment in ("feature_extractor", "feature_projection", "subsampling") for segment in segments):
        return "frontend"
    if _is_norm(segments):
        return "norms"
    if any(segment in ("pos_conv_embed", "rel_attn_embed", "embed_positions") for segment in segments):
        return "positional"
    if found is not None:
        return f"encoder.{found[1]}"
    return "head" if _is_head(segments) else "encoder"


def _role(segments: Sequence[str], shape: Sequence[int]) -> Role:
    if _is_norm(segments):
        return "norm"
    if segments[-1].startswith("bias"):  # Parakeet's attention has a bias_u and a bias_v
        return "bias"
    if _is_head(segments):
        return "head"
    if any("embed" in segment for segment in segments) and len(shape) == 2:
        return "embedding"
    return "linear" if len(shape) == 2 else "convolution" if len(shape) > 2 else "other"


def _is_norm(segments: Sequence[str]) -> bool:
    # Parakeet says norm_conv where others say conv_layer_norm.
    return len(segments) > 1 and (segments[-2].endswith("norm") or segments[-2].startswith("norm_"))


def _is_head(segments: Sequence[str]) -> bool:
    return segments[0] in ("lm_head", "ctc_head", "proj_out", "classifier", "projector")
