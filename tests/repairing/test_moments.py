"""Moments and corrections of single maps, on random numbers, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asrmerge.errors import StatisticsError
from asrmerge.repairing.moments import MomentCollector, Moments, correct, fuse, interpolate

seeds = st.integers(0, 10_000)


def map_of(kind: str, random: np.random.Generator, bias: bool) -> tuple[Any, torch.Tensor]:
    """A map of five units, and inputs for it: [2, 3, positions] of a convolution, else [2, positions, 3]."""
    torch.manual_seed(int(random.integers(1 << 30)))
    module = nn.Conv1d(3, 5, 2, bias=bias) if kind == "convolution" else nn.Linear(3, 5, bias=bias)
    inputs = torch.from_numpy(random.normal(0.7, 2, (2, 3, 12) if kind == "convolution" else (2, 12, 3)).astype(np.float32))
    return module, inputs


def outputs(module: Any, inputs: torch.Tensor) -> np.ndarray:
    """[rows, units] in float64."""
    found = module.double()(inputs.double()).detach()
    module.float()
    return (found.transpose(1, 2) if isinstance(module, nn.Conv1d) else found).flatten(0, 1).numpy()


def moments_of(rows: np.ndarray) -> Moments:
    return Moments(torch.from_numpy(rows.mean(0)), torch.from_numpy(rows.std(0)))


@settings(deadline=None, max_examples=40)
@given(seeds, st.sampled_from(["linear", "convolution"]))
def test_the_fused_map_has_the_targets_moments(seed: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    module, inputs = map_of(kind, random, bias=True)
    target = Moments(torch.from_numpy(random.normal(0, 3, 5)), torch.from_numpy(random.uniform(0.1, 4, 5)))
    correction = correct(moments_of(outputs(module, inputs)), target, 1e-3, 1e3, has_bias=True)
    weight, bias = fuse(module.weight.detach(), module.bias.detach(), correction)
    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(bias)
    rows = outputs(module, inputs)
    np.testing.assert_allclose(rows.mean(0), target.mean.numpy(), atol=1e-4)
    np.testing.assert_allclose(rows.std(0), target.deviation.numpy(), rtol=1e-4)
    assert not correction.clamped.any() and not correction.left_alone.any()


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_without_a_bias_the_deviation_is_right_and_the_mean_scales_along(seed: int) -> None:
    random = np.random.default_rng(seed)
    module, inputs = map_of("linear", random, bias=False)
    before = outputs(module, inputs)
    target = Moments(torch.from_numpy(random.normal(0, 3, 5)), torch.from_numpy(random.uniform(0.1, 4, 5)))
    correction = correct(moments_of(before), target, 1e-3, 1e3, has_bias=False)
    weight, bias = fuse(module.weight.detach(), None, correction)
    assert bias is None and not correction.shift.any()
    with torch.no_grad():
        module.weight.copy_(weight)
    rows = outputs(module, inputs)
    np.testing.assert_allclose(rows.std(0), target.deviation.numpy(), rtol=1e-4)
    np.testing.assert_allclose(rows.mean(0), before.mean(0) * correction.factor.numpy(), atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_clamped_units_still_get_the_targets_mean(seed: int) -> None:
    random = np.random.default_rng(seed)
    merged = Moments(torch.from_numpy(random.normal(0, 3, 4)), torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    target = Moments(torch.from_numpy(random.normal(0, 3, 4)), torch.tensor([0.1, 0.5, 2.0, 7.0], dtype=torch.float64))
    found = correct(merged, target, 0.5, 2.0, has_bias=True)
    assert found.factor.tolist() == [0.5, 0.5, 2.0, 2.0] and found.clamped.tolist() == [True, False, False, True]
    torch.testing.assert_close(found.factor * merged.mean + found.shift, target.mean)


def test_units_that_do_not_vary_are_left_alone() -> None:
    """One that is constant, one that varies by rounding only beside its own mean, and one that is small but real."""
    merged = Moments(torch.tensor([3.0, 1e6, 0.0, 1.0]).double(), torch.tensor([0.0, 0.5, 1e-3, 2.0]).double())
    target = Moments(torch.tensor([0.0, 0.0, 5.0, 1.0]).double(), torch.tensor([1.0, 1.0, 2e-3, 2.0]).double())
    found = correct(merged, target, 0.5, 2.0, has_bias=True)
    assert found.left_alone.tolist() == [True, True, False, False]
    assert found.factor.tolist() == [1, 1, 2, 1] and found.shift.tolist() == [0, 0, 5, 0]
    dead = Moments(torch.zeros(3).double(), torch.zeros(3).double())
    assert correct(dead, dead, 0.5, 2.0, has_bias=True).left_alone.all()


@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(1, 4))
def test_means_of_means_and_of_deviations_not_of_variances(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    names = [f"d{number}" for number in range(count)]
    means, deviations = random.normal(size=(count, 3)), random.uniform(0, 2, (count, 3))
    weights = random.dirichlet(np.ones(count))
    moments = {
        name: Moments(torch.from_numpy(mean), torch.from_numpy(deviation))
        for name, mean, deviation in zip(names, means, deviations, strict=True)
    }
    found = interpolate(moments, dict(zip(names, weights.tolist(), strict=True)))
    np.testing.assert_allclose(found.mean.numpy(), sum(w * m for w, m in zip(weights, means, strict=True)))
    np.testing.assert_allclose(found.deviation.numpy(), sum(w * d for w, d in zip(weights, deviations, strict=True)))


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_moments_are_those_of_the_positions_that_count(kind: str) -> None:
    module, inputs = map_of(kind, np.random.default_rng(3), bias=True)
    collector = MomentCollector({"map": module})
    rows = outputs(module, inputs) + 1e4  # a variance of a thousandth of a millionth of the square
    given_outputs = torch.from_numpy(rows).view(2, -1, 5)
    for start, stop in ((0, 1), (1, 2)):
        part = given_outputs[start:stop].transpose(1, 2) if kind == "convolution" else given_outputs[start:stop]
        collector.on_call("map", inputs, part, torch.tensor([0, 2, 3, 7]))
    chosen = given_outputs[:, [0, 2, 3, 7]].flatten(0, 1).numpy()
    found = collector.moments()["map"]
    np.testing.assert_allclose(found.mean.numpy(), chosen.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.deviation.numpy(), chosen.std(0), rtol=1e-4)
    tensors, positions = collector.result(1)
    assert set(tensors) == {"map.mean", "map.deviation"} and positions == {"map": 8.0}


def test_outputs_that_are_no_numbers_are_refused() -> None:
    module, inputs = map_of("linear", np.random.default_rng(3), bias=True)
    collector = MomentCollector({"map": module})
    collector.on_call("map", inputs, torch.full((1, 4, 5), torch.inf), torch.arange(4))
    with pytest.raises(StatisticsError, match="the outputs of map are NaN or infinite"):
        collector.moments()
