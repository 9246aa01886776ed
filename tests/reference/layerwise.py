"""RegMean++ and REPAIR by brute force: copies of whole models, one utterance at a time, float64, NumPy.

Nothing of asrmerge is used: models are transformers', what modules are given and give is found by hooks on them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from reference import statistics_reference as statistics
from torch import nn

Array = np.ndarray
Run = Callable[[nn.Module], object]  # a forward pass of one utterance
Counted = Callable[[str, int], list[int]]  # module, its positions → those that count
States = Mapping[str, dict[str, torch.Tensor]]  # expert → state of its plain copy


def regmean_plus_plus(
    base: nn.Module,
    experts: States,
    stages: Sequence[str],
    heard: Mapping[str, Sequence[tuple[Run, Counted]]],
    weights: Mapping[str, float],
    alpha: float,
) -> dict[str, torch.Tensor]:
    """The merged state of plain copies, float64.

    Args:
        stages: names of modules in the order of the forward pass; together they hold all parameters that count.
        heard: expert → utterances of its domain.
        weights: adding up to 1.
    """
    merged = copy.deepcopy(base)
    for stage in stages:
        own = [name for name in merged.state_dict() if name.startswith(f"{stage}.")]
        grams = {}
        for expert, utterances in heard.items():
            model = copy.deepcopy(merged)
            load(model, {name: experts[expert][name] for name in own})
            grams[expert] = input_grams(model, stage, utterances)
        load(merged, merge_stage(own, experts, grams, weights, alpha))
    return merged.state_dict()


def merge_stage(
    names: Sequence[str], experts: States, grams: Mapping[str, Mapping[str, Array]], weights: Mapping[str, float], alpha: float
) -> dict[str, torch.Tensor]:
    found = {}
    for name in names:
        mean = sum(weight * experts[expert][name] for expert, weight in weights.items())
        found[name] = mean
    for module in next(iter(grams.values())):
        left, right = 0.0, 0.0
        for expert, weight in weights.items():
            gram = alpha * grams[expert][module] + (1 - alpha) * np.diag(np.diag(grams[expert][module]))
            matrix = experts[expert][f"{module}.weight"].numpy()
            matrix = matrix.reshape(len(matrix), -1)
            if f"{module}.bias" in names:
                matrix = np.concatenate([matrix, experts[expert][f"{module}.bias"].numpy()[:, None]], 1)
            else:
                gram = gram[:-1, :-1]
            left, right = left + weight * gram, right + weight * matrix @ gram
        solution = torch.from_numpy(np.linalg.solve(left, right.T).T)
        width = found[f"{module}.weight"][0].numel()
        found[f"{module}.weight"] = solution[:, :width].reshape(found[f"{module}.weight"].shape)
        if f"{module}.bias" in names:
            found[f"{module}.bias"] = solution[:, -1]
    return found


def input_grams(model: nn.Module, stage: str, utterances: Sequence[tuple[Run, Counted]]) -> dict[str, Array]:
    """The mean of [x, 1][x, 1]ᵀ over the positions that count, for every linear map inside of ``stage``."""
    rows: dict[str, list[Array]] = {}
    for run, counted in utterances:
        for name, (inputs, _) in statistics.calls(model, run).items():
            if not statistics.is_layer(name) and f"{name}.".startswith(f"{stage}."):
                rows.setdefault(name, []).append(inputs[counted(name, len(inputs))])
    return {name: statistics.gram(np.concatenate(found)) for name, found in rows.items() if name != "proj_out"}


def load(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in state.items():
            model.state_dict()[name].copy_(value)


def output_moments(model: nn.Module, utterances: Sequence[tuple[Run, Counted]]) -> dict[str, tuple[Array, Array]]:
    """Mean and standard deviation of every unit of every linear layer and convolution, those with groups included."""
    own = statistics.plain_copy(model)
    rows: dict[str, list[Array]] = {}
    current: list[Counted] = []

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, given: object, output: torch.Tensor) -> None:
            values = output[0].T if isinstance(module, nn.Conv1d) else output[0]
            rows.setdefault(name, []).append(values.numpy()[current[-1](name, len(values))])

        return keep

    for name, module in own.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            module.register_forward_hook(hook(name))
    with torch.no_grad():
        for run, counted in utterances:
            current.append(counted)
            run(own)
    return {name: (np.concatenate(found).mean(0), np.concatenate(found).std(0)) for name, found in rows.items()}


def interpolated(
    moments: Sequence[Mapping[str, tuple[Array, Array]]], weights: Sequence[float]
) -> dict[str, tuple[Array, Array]]:
    """The weighted means of means and of standard deviations."""
    return {
        name: tuple(sum(weight * one[name][side] for one, weight in zip(moments, weights, strict=True)) for side in (0, 1))
        for name in moments[0]
    }
