"""Adam's second moments from an ``optimizer.pt`` of transformers' Trainer: it has no names, only the parameters' order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asrmerge.errors import CheckpointError, IncompatibleError
from asrmerge.experts.moments import unbiased_second_moment
from asrmerge.recognizers.recognizer import Recognizer

Groups = tuple[tuple[str, ...], ...]

# As Trainer.get_decay_parameter_names; before transformers 4.50, biases only.
_UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
_UNDECAYED_BEFORE = re.compile(r"bias")


@dataclass(frozen=True, eq=False)
class TrainerMoments:
    """v/(1 − β₂ᵗ) by the model's parameter names, float32, of every parameter that has a state; steps are the most of any."""

    values: dict[str, Tensor]
    steps: int
    beta2: float


def read_trainer_moments(path: Path, recognizer: Recognizer, frozen: Sequence[str] | None = None) -> TrainerMoments:
    """Read the second moments, and find the names of what they are of.

    The Trainer's optimiser has two groups, of parameters with and without weight decay, each in the model's order; frozen ones
    are in neither. Which were frozen is not in the file: nothing, the acoustic front end, and the whole encoder are tried.

    Args:
        frozen: the beginnings of the names of parameters that were frozen, where it was something else.

    Raises:
        CheckpointError: the file is missing, cannot be read without running code in it, is no state of Adam's, or holds NaN or
            Inf.
        IncompatibleError: its groups do not fit the model's parameters, in number or in shape.
    """
    groups, states = _read(path)
    fitting = {names for names in _possible_groups(recognizer, frozen) if _fits(names, groups, states, recognizer.model)}
    if len(fitting) != 1:
        sizes = " and ".join(str(len(group["params"])) for group in groups)
        count = sum(1 for _ in recognizer.model.parameters())
        reason = "fit its parameters in several ways" if fitting else f"do not fit its {count} parameters by number and shape"
        raise IncompatibleError(
            f"{path} has groups of {sizes} parameters, which {reason}: give the model that it was written beside, and the "
            "beginnings of the names of what was frozen."
        )
    (names,) = fitting
    values: dict[str, Tensor] = {}
    steps = 0.0
    for group, members in zip(groups, names, strict=True):
        for index, name in zip(group["params"], members, strict=True):
            if (state := states.get(index)) is None:
                continue
            values[name] = unbiased_second_moment(state["exp_avg_sq"], float(state["step"]), float(group["betas"][1]))
            steps = max(steps, float(state["step"]))
            if not bool(torch.isfinite(values[name]).all()):
                raise CheckpointError(f"{path} holds NaN or Inf for {name}: the training diverged; take an earlier checkpoint.")
    return TrainerMoments(values, round(steps), float(groups[0]["betas"][1]))


def _read(path: Path) -> tuple[list[dict[str, Any]], Mapping[int, Mapping[str, Any]]]:
    """The groups, without those that are empty, and the state of every parameter by its number."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: give the optimizer.pt that the Trainer wrote beside the model.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds here: UnpicklingError, EOFError, RuntimeError, OSError, …
        raise CheckpointError(
            f"{path} cannot be read as plain tensors ({str(error).partition(chr(10))[0]}): give the optimizer.pt that the "
            "Trainer wrote beside the model."
        ) from error
    groups = content.get("param_groups") if isinstance(content, dict) else None
    states = content.get("state") if isinstance(content, dict) else None
    if not isinstance(groups, list) or not isinstance(states, dict):
        raise CheckpointError(f"{path} is no optimiser's state: give the optimizer.pt that the Trainer wrote beside the model.")
    groups = [group for group in groups if group["params"]]
    if not states or any("exp_avg_sq" not in state or "step" not in state for state in states.values()):
        held = ", ".join(sorted({str(key) for state in states.values() for key in state})) or "nothing"
        raise CheckpointError(
            f"{path} was not written by torch's Adam or AdamW after a step (it holds {held}): give one that was."
        )
    return groups, states


def _possible_groups(recognizer: Recognizer, frozen: Sequence[str] | None) -> Iterator[Groups]:
    """The parameters' names as the Trainer's optimiser may have had them."""
    model = recognizer.model
    norms = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for own in module._parameters
    }
    rules: tuple[Callable[[str], bool], ...] = (
        lambda name: name not in norms and _UNDECAYED.search(name.lower()) is None,
        lambda name: name not in norms and _UNDECAYED_BEFORE.search(name.lower()) is None,
    )
    for left in _possibly_trained(recognizer, frozen):
        yield (tuple(left),)
        for decays in rules:
            both = tuple(name for name in left if decays(name)), tuple(name for name in left if not decays(name))
            yield tuple(group for group in both if group)


def _possibly_trained(recognizer: Recognizer, frozen: Sequence[str] | None) -> Iterator[list[str]]:
    parameters = dict(recognizer.model.named_parameters())
    # Whisper's sinusoidal positions have a gradient in some releases of transformers, and none in others.
    positions = {name for name in parameters if name.endswith("encoder.embed_positions.weight")}
    if frozen is not None:
        choices = [{name for name in parameters if name.startswith(tuple(frozen))}]
    else:
        base = recognizer.model.base_model
        decoder = getattr(base, "decoder", None)
        kept = {id(parameter) for parameter in decoder.parameters()} if decoder is not None else set()
        encoder = {id(parameter) for parameter in base.parameters()} - kept
        choices = [
            set(),
            set(recognizer.frontend_parameters()) - positions,
            {name for name, parameter in parameters.items() if id(parameter) in encoder},
        ]
    for choice in choices:
        for left_out in (choice, choice | positions):
            yield [name for name in parameters if name not in left_out]


def _fits(names: Groups, groups: Sequence[Mapping[str, Any]], states: Mapping[int, Mapping[str, Any]], model: nn.Module) -> bool:
    if [len(members) for members in names] != [len(group["params"]) for group in groups]:
        return False
    return all(
        states[index]["exp_avg_sq"].shape == model.get_parameter(name).shape
        for members, group in zip(names, groups, strict=True)
        for name, index in zip(members, group["params"], strict=True)
        if index in states
    )
