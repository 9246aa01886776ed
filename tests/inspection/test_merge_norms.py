"""Norms of weights and task vectors of a merge beside its experts', against NumPy on whole models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_models import fine_tuned, tiny_model

from asrmerge.errors import CheckpointError
from asrmerge.inspection import norms
from asrmerge.inspection.norms import measure_norms, squares

MAGNITUDE, DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"


def whole(checkpoint):
    """Every parameter as a merge sees it, float64: the product of a weight norm; no constants."""
    stored = {name: value.double().numpy() for name, value in load_file(checkpoint.folder / "model.safetensors").items()}
    found = {}
    for name, value in stored.items():
        if name.endswith(MAGNITUDE):
            direction = stored[name.removesuffix(MAGNITUDE) + DIRECTION]
            found[name.removesuffix(MAGNITUDE)] = value * direction / np.sqrt(np.square(direction).sum((0, 1), keepdims=True))
        elif not name.endswith((DIRECTION, "encoder.embed_positions.weight")):
            found[name] = value
    return found


def check(found, parts, merged, experts, base):
    def norm(model, start=None):
        return np.sqrt(sum(np.square(model[name] - (0 if start is None else start[name])).sum() for name in parts))

    assert parts
    own, theirs = norm(merged), np.mean([norm(one) for one in experts])
    assert (found.norm, found.expert_norm, found.norm_ratio) == pytest.approx((own, theirs, own / theirs), rel=1e-9)
    if base is None:
        assert (found.task_vector, found.expert_task_vector, found.task_vector_ratio) == (None, None, None)
        return
    own, theirs = norm(merged, base), np.mean([norm(one, base) for one in experts])
    assert (found.task_vector, found.expert_task_vector) == pytest.approx((own, theirs), rel=1e-7)
    assert found.task_vector_ratio == (pytest.approx(own / theirs, rel=1e-6) if theirs else None)


@pytest.mark.parametrize("family", ["ctc", "whisper"])
@pytest.mark.parametrize("has_base", [True, False])
def test_norms_are_those_of_whole_models(family, has_base, saved):
    base, merged = saved(tiny_model(family), "base"), saved(fine_tuned(family, 9, 0.02), "merged")
    experts = {f"e{seed}": saved(fine_tuned(family, seed, 0.03 * seed), f"e{seed}") for seed in (1, 2, 3)}
    steps = []
    found = measure_norms(merged, experts, base if has_base else None, lambda done, total: steps.append((done, total)))
    values = [whole(one) for one in (merged, *experts.values())]
    start = whole(base) if has_base else None
    check(found.overall, list(values[0]), values[0], values[1:], start)
    assert steps == [(done, len(values[0])) for done in range(1, len(values[0]) + 1)]
    layers = {"encoder.0": "encoder.layers.0."} | ({"decoder.0": "decoder.layers.0."} if family == "whisper" else {})
    assert found.layers.keys() == layers.keys()
    for layer, place in layers.items():
        check(found.layers[layer], [name for name in values[0] if place in name], values[0], values[1:], start)
    groups = {row.group: row for row in found.groups}
    if family == "whisper":
        assert list(groups) == [
            "frontend", "encoder.0", "decoder.0.self", "decoder.0.cross", "decoder.0.ffn", "decoder", "embedding", "norms",
        ]  # fmt: skip
        parts = [name for name in values[0] if "layers.0.encoder_attn." in name]
        check(groups["decoder.0.cross"], parts, values[0], values[1:], start)
    else:
        assert list(groups) == ["frontend", "positional", "encoder.0", "encoder", "norms", "head"]
        parts = [name for name in values[0] if "pos_conv_embed" in name]
        check(groups["positional"], parts, values[0], values[1:], start)
    assert sum(row.norm**2 for row in found.groups) == pytest.approx(found.overall.norm**2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([(), (0,), (1,), (37,), (5, 7, 2)]), st.booleans())
def test_sums_of_squares_are_those_of_numpy(seed, count, shape, has_base):
    generator = torch.Generator().manual_seed(seed)
    base, *models = (torch.randn(shape, generator=generator) for _ in range(count + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norms, "_CHUNK", 8)  # several pieces, the last one short
        found = squares(base if has_base else None, models)
    wanted = [
        [np.square(model.double().numpy()).sum() for model in models],
        [np.square(model.double().numpy() - base.double().numpy()).sum() if has_base else 0.0 for model in models],
    ]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)


def test_experts_that_did_not_move_have_no_ratio(saved):
    base = saved(tiny_model("ctc"), "base")
    found = measure_norms(saved(fine_tuned("ctc", 1), "merged"), {"one": base, "two": base}, base)
    assert found.overall.task_vector > 0
    assert (found.overall.expert_task_vector, found.overall.task_vector_ratio) == (0.0, None)


def test_a_model_that_diverged_is_named(saved):
    broken = fine_tuned("ctc", 1)
    with torch.no_grad():
        broken.lm_head.weight[0, 0] = torch.nan
    models = [saved(tiny_model("ctc"), "base"), saved(broken, "broken")]
    with pytest.raises(CheckpointError, match="broken"):
        measure_norms(models[0], {"broken": models[1]}, models[0])
