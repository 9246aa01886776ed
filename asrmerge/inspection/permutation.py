"""Whether an expert's units lie where the reference's do: fine-tunes of one base keep them, other trainings do not.

Feed-forward units and attention heads can be exchanged without changing what a model computes, so two trainings put the same
function in different places, and averaging them mixes strangers. Units are matched as in Git Re-Basin (Ainsworth, Hayase and
Srinivasa, arXiv 2209.04836), by the assignment with the greatest inner product. Not looked for are permutations of the
residual stream, which show as "not the same base", and of the dimensions inside of a head, which show as a low cosine only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint

Read = Callable[[str], Tensor]
AttentionPart = Literal["self", "cross"]

MODEL_TYPES = ("whisper", "wav2vec2", "hubert", "wavlm", "data2vec-audio", "wav2vec2-bert", "parakeet_ctc")

_STACKS = ("encoder", "decoder")
_LAYER = re.compile(r"(?:^|\.)(encoder|decoder)\.layers\.(\d+)\.")
_FEED_FORWARD = (
    ("fc1", "fc2"),
    *((f"{module}.intermediate_dense", f"{module}.output_dense") for module in ("feed_forward", "ffn1", "ffn2")),
    *((f"{module}.linear1", f"{module}.linear2") for module in ("feed_forward1", "feed_forward2")),
)
_ATTENTION: tuple[tuple[str, AttentionPart], ...] = (("self_attn", "self"), ("attention", "self"), ("encoder_attn", "cross"))
_INTO_HEADS = (
    *("q_proj", "k_proj", "v_proj", "linear_q", "linear_k", "linear_v"),
    *("relative_k_proj", "bias_u", "bias_v", "linear_pos", "pos_bias_u", "pos_bias_v"),
)
_OUT_OF_HEADS = ("out_proj", "o_proj", "linear_out")
_TIE = 1e-4  # of the mean squared norm: two units that are closer than this are not told apart, and stay


@dataclass(frozen=True)
class Part:
    """Units or heads that can be exchanged: rows of ``inputs`` (weights and biases) and columns of ``outputs``."""

    stack: str
    layer: int
    part: Literal["ffn"] | AttentionPart
    count: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def kind(self) -> Literal["units", "heads"]:
        return "units" if self.part == "ffn" else "heads"


@dataclass(frozen=True, eq=False)
class Match:
    """A matching of a part's units (or heads) with those of the reference.

    Attributes:
        order: the reference's unit that each of the expert's units matches [count].
        solved: ``order`` is the best permutation; else each unit's nearest, which may be one for several.
        cosine: of the part's weights as they are stored.
        matched_cosine: of the part's weights after the permutation.
    """

    order: Tensor
    solved: bool
    cosine: float
    matched_cosine: float

    @property
    def in_place(self) -> int:
        return int((self.order == torch.arange(len(self.order))).sum())


def find_parts(checkpoint: Checkpoint) -> tuple[Part, ...]:
    """Feed-forward and attention parts of every layer, in their order; none for a model type whose layers differ."""
    if checkpoint.model_type not in MODEL_TYPES:
        return ()
    names = set(checkpoint.names)
    found = {(match[1], int(match[2]), name[: match.end()]) for name in names if (match := _LAYER.search(name))}
    layers = sorted(found, key=lambda layer: (_STACKS.index(layer[0]), *layer[1:]))
    return tuple(part for layer in layers for part in _parts_of_layer(checkpoint, names, *layer))


def match_units(reference: Tensor, expert: Tensor, *, solve: bool = True) -> Match:
    """Match rows of ``expert`` with rows of ``reference`` [units, features].

    The assignment with the greatest sum of inner products is the one with the least sum of squared distances, because the
    norms add up to the same in every assignment. So where the nearest rows form a permutation, it is the best one, and no
    assignment is solved. Without ``solve``, the nearest rows are taken in any case.
    """
    one, two = reference.to(torch.float32), expert.to(torch.float32)
    squares = two.square().sum(dim=1)[:, None] + one.square().sum(dim=1)[None, :]
    distances = squares.addmm(two, one.T, alpha=-2)
    distances.diagonal().sub_(_TIE * squares.mean() / 2)
    order = distances.argmin(dim=1)
    solved = len(set(order.tolist())) == len(order)
    if not solved and solve:
        order, solved = torch.from_numpy(linear_sum_assignment(distances.numpy())[1]), True
    return Match(order, solved, _cosine(two, one), _cosine(two, one[order]))


def match_part(part: Part, reference: Read, expert: Read, *, solve: bool = True) -> Match:
    """Match the units of ``part`` in two models, which are read by tensor name."""
    return match_units(part_features(part, reference), part_features(part, expert), solve=solve)


def part_features(part: Part, read: Read) -> Tensor:
    """All weights of each unit or head in one row [count, features]: what comes in, its biases, what goes out. Float32."""
    rows = [read(name).to(torch.float32).reshape(part.count, -1) for name in part.inputs]
    columns = [read(name).to(torch.float32).T.reshape(part.count, -1) for name in part.outputs]
    return torch.cat([*rows, *columns], dim=1)


def align(tensors: Mapping[str, Tensor], part: Part, order: Tensor) -> dict[str, Tensor]:
    """The part's tensors with units (or heads) put where the reference has them; other tensors as they are.

    ``order`` is that of a solved match. The aligned model computes what it did before; WavLM's heads are the exception, since
    each is tied to its part of the hidden state.
    """
    back = order.argsort()
    changed = {name: _permute(tensors[name], part.count, back) for name in part.inputs}
    changed |= {name: _permute(tensors[name].T, part.count, back).T.contiguous() for name in part.outputs}
    return {**tensors, **changed}


def _permute(tensor: Tensor, count: int, order: Tensor) -> Tensor:
    blocks = tensor.reshape(count, tensor.shape[0] // count, *tensor.shape[1:])
    return blocks[order].reshape(tensor.shape)


def _parts_of_layer(checkpoint: Checkpoint, names: set[str], stack: str, layer: int, prefix: str) -> Iterator[Part]:
    for first, second in _FEED_FORWARD:
        inputs, outputs = _existing(names, prefix, [first], [second])
        if inputs and outputs:
            yield Part(stack, layer, "ffn", checkpoint.shape(inputs[0])[0], inputs, outputs)
    config = checkpoint.config.get(f"{stack}_config", checkpoint.config)  # Parakeet's encoder has a configuration of its own
    heads = config.get(f"{stack}_attention_heads", config.get("num_attention_heads"))
    if not isinstance(heads, int) or config.get("num_key_value_heads") not in (None, heads):
        return
    for module, part in _ATTENTION:
        coming, going = ([f"{module}.{name}" for name in listed] for listed in (_INTO_HEADS, _OUT_OF_HEADS))
        inputs, outputs = _existing(names, prefix, coming, going)
        if inputs and outputs and checkpoint.shape(inputs[0])[0] % max(heads, 1) == 0:
            yield Part(stack, layer, part, heads, inputs, outputs)


def _existing(
    names: set[str], prefix: str, inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the weights and biases going in, and of the weights going out, as far as the model has them."""
    coming = [f"{prefix}{module}{kind}" for module in inputs for kind in (".weight", ".bias", "")]
    going = [f"{prefix}{module}.weight" for module in outputs]
    return tuple(name for name in coming if name in names), tuple(name for name in going if name in names)


def _cosine(one: Tensor, two: Tensor) -> float:
    """Zero where one of them is zero, one where both are."""
    first, second = float(one.norm()), float(two.norm())
    if first == 0 or second == 0:
        return float(first == second)
    return max(-1.0, min(1.0, float((one * two).sum()) / (first * second)))
