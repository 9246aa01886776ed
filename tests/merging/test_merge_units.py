from __future__ import annotations

import averages
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_ctc, tiny_whisper

from asrmerge.merging.units import compose_weight_norm, decompose_weight_norm, plan_units


def dtypes(model):
    return {name: value.dtype for name, value in model.state_dict().items()}


def test_ctc_plan():
    units = plan_units(dtypes(tiny_ctc()), "wav2vec2")
    paired = [unit for unit in units if unit.weight_normed]
    assert [unit.name for unit in paired] == ["wav2vec2.encoder.pos_conv_embed.conv.weight"]
    assert [name for unit in units for name in unit.members] == sorted(dtypes(tiny_ctc()))
    assert not any(unit.copied for unit in units)


def test_copied_tensors():
    units = plan_units(dtypes(tiny_whisper()) | {"steps": torch.int64, "rotary.inv_freq": torch.float32}, "whisper")
    copied = {unit.name for unit in units if unit.copied}
    assert copied == {"model.encoder.embed_positions.weight", "rotary.inv_freq", "steps"}


@pytest.mark.parametrize("dim", [0, 1, 2, None])
def test_composes_as_torch_does(dim):
    convolution = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(6, 4, 3), dim=dim)
    stored = convolution.parametrizations.weight
    g, v = stored.original0.detach() * 1.7, stored.original1.detach()
    with torch.no_grad():
        stored.original0.copy_(g)
    torch.testing.assert_close(compose_weight_norm(g, v), convolution.weight.detach())
    again_g, again_v = decompose_weight_norm(compose_weight_norm(g, v), g, v)
    torch.testing.assert_close(again_g, g)
    torch.testing.assert_close(again_v, v)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_round_trip_and_scale_of_v(seed, factor):
    generator = torch.Generator().manual_seed(seed)
    g, v = torch.randn(1, 1, 3, generator=generator), torch.randn(4, 2, 3, generator=generator)  # g of either sign
    weight = compose_weight_norm(g, v)
    np.testing.assert_allclose(weight, averages.weight_norm(g.numpy(), v.numpy()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(compose_weight_norm(g, v * factor), weight)
    again = decompose_weight_norm(weight, g, v)
    torch.testing.assert_close(again[0], g)
    torch.testing.assert_close(again[1], v)
    other = torch.randn(4, 2, 3, generator=generator)
    torch.testing.assert_close(compose_weight_norm(*decompose_weight_norm(other, g, v)), other)


def test_zero_weights_make_no_nan():
    v = torch.ones(2, 2, 3)
    g, kept = decompose_weight_norm(torch.zeros(2, 2, 3), torch.ones(1, 1, 3), v)
    assert not g.any() and torch.equal(kept, v)
    assert not compose_weight_norm(torch.ones(1, 1, 3), torch.zeros(2, 2, 3)).any()
