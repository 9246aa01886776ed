"""Merged weights in a live model: values as the engine's, and gradients as automatic differentiation through the merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.merged_gradient import merged_gradient
from safetensors.torch import load_file
from tiny_recognizers import make_models
from torch import Tensor

from asrmerge.errors import CheckpointError, ConfigError, IncompatibleError
from asrmerge.learning.weights import MergedWeights
from asrmerge.merging.engine import merge_to_folder
from asrmerge.merging.recipe import Recipe
from asrmerge.recognizers.recognizer import DifferentiableRecognizer, load_recognizer

CASES = {"whisper": ("whisper", ""), "ctc": ("ctc", ""), "frozen": ("whisper", "model.encoder")}


@dataclass(frozen=True)
class Models:
    base: Path
    experts: Mapping[str, Path]
    states: Mapping[str, Mapping[str, Tensor]]

    def load(self) -> DifferentiableRecognizer:
        loaded: Any = load_recognizer(self.base)
        return loaded


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Models]:
    made = {}
    for name, (family, frozen) in CASES.items():
        base, experts = make_models(tmp_path_factory.mktemp(name), family, frozen=frozen)
        states = {expert: load_file(folder / "model.safetensors") for expert, folder in experts.items()}
        made[name] = Models(base, experts, move_positional(states) if family == "ctc" else states)
    return made


def move_positional(states: Mapping[str, dict[str, Tensor]]) -> Mapping[str, dict[str, Tensor]]:
    """The weight-normed convolution of every expert moved, which the tiny models leave alone."""
    generator = torch.Generator().manual_seed(9)
    for state in states.values():
        for name, value in state.items():
            if "parametrizations" in name:
                state[name] = value + 0.3 * value.abs().mean() * torch.randn(value.shape, generator=generator)
    return states


def batch_of(recognizer: DifferentiableRecognizer, seed: int) -> dict[str, Tensor]:
    random = np.random.default_rng(seed)
    audio = [random.normal(0, 0.1, length).astype(np.float32) for length in (9000, 12000)]
    return {**recognizer.features(audio), "labels": recognizer.labels(["a cab", "bed"])}


def drawn(weights: MergedWeights, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(weights.groups), len(weights.experts), generator=generator) * 0.8 - 0.1


@pytest.mark.parametrize("case", CASES)
def test_the_contraction_is_the_gradient_through_the_merge(models: Mapping[str, Models], case: str) -> None:
    """Weight norm, tied embeddings and a frozen encoder among them; the mean over two batches is the mean of gradients."""
    recognizer = models[case].load()
    weights = MergedWeights(recognizer.model, models[case].states)
    coefficients = drawn(weights).requires_grad_(True)
    batches = [batch_of(recognizer, seed) for seed in (1, 2)]
    loss = weights.loss(coefficients, [lambda batch=batch: recognizer.loss(batch) for batch in batches])
    (3 * loss).backward()
    rows = dict(zip(weights.groups, coefficients.tolist(), strict=True))
    fresh = models[case].load()
    found = [merged_gradient(fresh, models[case].states, rows, lambda b=batch: fresh.loss(b)) for batch in batches]
    assert float(loss.detach()) == pytest.approx(np.mean([value for value, _ in found]), rel=1e-5)
    assert coefficients.grad is not None
    for group, row in zip(weights.groups, coefficients.grad, strict=True):
        expected = 3 * torch.stack([gradients[group] for _, gradients in found]).mean(0)
        assert float(expected.abs().max()) > 1e-4, group  # something that could be wrong
        torch.testing.assert_close(row, expected, rtol=2e-3, atol=2e-5, msg=group)


def test_a_step_along_the_gradient_changes_the_loss_by_as_much(models: Mapping[str, Models]) -> None:
    recognizer = models["ctc"].load()
    weights = MergedWeights(recognizer.model, models["ctc"].states)
    start, batch = drawn(weights), batch_of(recognizer, 3)
    _, gradient = weights.measure(start, [lambda: recognizer.loss(batch)])
    step = 1e-2 * gradient / gradient.norm()
    above, below = (float(weights.measure(start + sign * step, [lambda: recognizer.loss(batch)])[0]) for sign in (1, -1))
    assert (above - below) / 2 == pytest.approx(1e-2 * float(gradient.norm()), rel=0.05)


@pytest.mark.parametrize("case", CASES)
def test_values_are_the_engines_to_the_bit(models: Mapping[str, Models], case: str, tmp_path: Path) -> None:
    folders = models[case].experts
    recognizer = models[case].load()
    weights = MergedWeights(recognizer.model, {name: load_file(folder / "model.safetensors") for name, folder in folders.items()})
    weights.apply(drawn(weights, 5))  # what came before must not matter
    rows = [[round(value, 6) for value in row] for row in drawn(weights).tolist()]
    weights.apply(rows)
    recipe = Recipe(
        method="task_arithmetic",
        base=str(models[case].base),
        experts=[{"name": name, "model": str(folder)} for name, folder in folders.items()],
        groups=[
            {"group": group, "weights": dict(zip(weights.experts, row, strict=True))}
            for group, row in sorted(zip(weights.groups, rows, strict=True), key=lambda pair: pair[0].count("."))
        ],
    )
    merge_to_folder(recipe, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in recognizer.model.named_parameters():
        assert torch.equal(value.detach(), merged[name]), name


@pytest.mark.parametrize("case", CASES)
def test_zeros_are_the_base_and_a_one_is_that_expert(models: Mapping[str, Models], case: str) -> None:
    recognizer = models[case].load()
    base = {name: value.detach().clone() for name, value in recognizer.model.named_parameters()}
    weights = MergedWeights(recognizer.model, models[case].states)
    weights.apply(torch.ones(len(weights.groups), len(weights.experts)))
    assert any(not torch.equal(value, base[name]) for name, value in recognizer.model.named_parameters())
    weights.apply(torch.zeros(len(weights.groups), len(weights.experts)))
    for name, value in recognizer.model.named_parameters():
        if "parametrizations" in name:  # split into length and direction again, which rounds
            torch.testing.assert_close(value.detach(), base[name], rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(value.detach(), base[name]), name
    weights.apply([[1.0 if name == "medical" else 0.0 for name in weights.experts] for _ in weights.groups])
    logits = recognizer.logits(batch_of(recognizer, 1))
    expert = models[case].load()
    expert.model.load_state_dict(models[case].states["medical"], strict=False)
    torch.testing.assert_close(logits, expert.logits(batch_of(expert, 1)), rtol=1e-4, atol=1e-4)


def test_what_no_expert_has_changed_is_neither_a_group_nor_differentiated(models: Mapping[str, Models]) -> None:
    recognizer = models["frozen"].load()
    weights = MergedWeights(recognizer.model, models["frozen"].states)
    assert weights.groups == ("decoder", "decoder.0.cross", "decoder.0.ffn", "decoder.0.self", "embedding")
    asked = {name for name, value in recognizer.model.named_parameters() if value.requires_grad}
    assert asked and not any(name.startswith("model.encoder") for name in asked)
    assert not weights.changes(list(recognizer.model.get_encoder().parameters()))
    assert weights.changes(list(recognizer.model.get_decoder().parameters()))


def test_no_gradient_is_left_in_the_model(models: Mapping[str, Models]) -> None:
    recognizer = models["whisper"].load()
    weights = MergedWeights(recognizer.model, models["whisper"].states)
    batch = batch_of(recognizer, 1)
    once = weights.measure(drawn(weights), [lambda: recognizer.loss(batch)])[1]
    again = weights.measure(drawn(weights), [lambda: recognizer.loss(batch)])[1]
    assert torch.equal(once, again) and all(value.grad is None for value in recognizer.model.parameters())


@settings(max_examples=6, deadline=None)
@given(factors=st.lists(st.floats(0.1, 3.0), min_size=2, max_size=2))
def test_the_gradient_grows_with_the_task_vector(models: Mapping[str, Models], factors: list[float]) -> None:
    """θ depends on λτ alone: an expert c times as far away, at λ / c, has c times the gradient."""
    case = models["frozen"]
    states, base = case.states, load_file(case.base / "model.safetensors")
    scaled = {
        expert: {name: base[name] + factor * (value - base[name]) for name, value in states[expert].items()}
        for expert, factor in zip(sorted(states), factors, strict=True)
    }
    gradients = []
    for used, divisor in ((states, [1.0, 1.0]), (scaled, factors)):
        recognizer = case.load()
        weights = MergedWeights(recognizer.model, used)
        batch = batch_of(recognizer, 4)
        at = 0.5 * torch.ones(len(weights.groups), 2) / torch.tensor(divisor)
        gradients.append(weights.measure(at, [lambda r=recognizer, b=batch: r.loss(b)])[1])
    torch.testing.assert_close(gradients[1], gradients[0] * torch.tensor(factors), rtol=2e-3, atol=1e-5)


def broken(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.full_like(value, float("nan")) for name, value in state.items()}


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda states, base: {}, ConfigError, "at least one expert"),
        (lambda states, base: {"same": base}, ConfigError, "no expert differs from the base"),
        (lambda states, base: {"broken": broken(states["legal"])}, CheckpointError, "NaN or Inf"),
        (lambda states, base: {"odd": {"more": torch.ones(1)}}, IncompatibleError, "more is in the expert odd"),
    ],
)
def test_experts_that_cannot_be_learnt_with_are_refused(
    models: Mapping[str, Models], change: Callable[..., Any], kind: type[Exception], message: str
) -> None:
    recognizer = models["whisper"].load()
    base = {name: value.detach().clone() for name, value in recognizer.model.named_parameters()}
    with pytest.raises(kind, match=message):
        MergedWeights(recognizer.model, change(models["whisper"].states, base))
