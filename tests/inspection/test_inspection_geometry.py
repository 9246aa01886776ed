"""Norms, cosines, conflicts and lists of tensors, against NumPy on whole arrays."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import fine_tuned, tiny_model

from asrmerge.errors import CheckpointError, ConfigError
from asrmerge.inspection import geometry
from asrmerge.inspection.geometry import Sums, measure, summarize
from asrmerge.inspection.inspecting import inspect_models
from asrmerge.merging.structure import plan_places


def reference(base, experts):
    """Every figure from its definition, entry by entry where signs are concerned."""
    experts = [np.asarray(expert, np.float64).ravel() for expert in experts]
    start = np.mean(experts, axis=0) if base is None else np.asarray(base, np.float64).ravel()
    moved = [expert - start for expert in experts]
    pairs = {}
    for one, two in combinations(range(len(experts)), 2):
        opposite = (np.sign(moved[one]) + np.sign(moved[two]) == 0) & (moved[one] != 0)
        both = np.abs(moved[one]) + np.abs(moved[two])
        lengths = np.linalg.norm(moved[one]) * np.linalg.norm(moved[two])
        pairs[one, two] = (
            float(moved[one] @ moved[two] / lengths) if lengths else None,
            float(opposite.mean()) if opposite.size else 0.0,
            float(both[opposite].sum() / both.sum()) if both.sum() else 0.0,
        )
    contested = np.array([min(column) < 0 < max(column) for column in zip(*moved, strict=True)], bool)
    whole = np.abs(moved).sum()
    return {
        "parameters": start.size,
        "reference_norm": np.linalg.norm(start),
        "norms": [np.linalg.norm(one) for one in moved],
        "pairs": pairs,
        "contested": contested.mean() if contested.size else 0.0,
        "contested_magnitude": np.abs(moved)[:, contested].sum() / whole if whole else 0.0,
    }


def check(found, wanted):
    assert found.parameters == wanted["parameters"]
    for name in ("reference_norm", "norms", "contested", "contested_magnitude"):
        assert getattr(found, name) == pytest.approx(wanted[name], rel=1e-12), name
    for (one, two), figures in wanted["pairs"].items():
        have = (found.cosines[one][two], found.conflicts[one][two], found.conflict_magnitudes[one][two])
        for value, expected in zip(have, figures, strict=True):
            assert value == (None if expected is None else pytest.approx(expected, rel=1e-9, abs=1e-14))
    for matrix in (found.cosines, found.conflicts, found.conflict_magnitudes):
        assert tuple(zip(*matrix, strict=True)) == matrix
    for norm, ratio in zip(found.norms, found.ratios, strict=True):
        assert ratio == (pytest.approx(norm / found.reference_norm) if found.reference_norm else None)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.sampled_from([(), (0,), (1,), (37,), (6, 1), (5, 7, 2)]),
    st.floats(0, 1),
    st.booleans(),
)
def test_figures_are_those_of_numpy(seed, experts, shape, sparsity, has_base):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    models = [
        base + torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) >= sparsity)
        for _ in range(experts)
    ]
    start = base if has_base or experts == 1 else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "_CHUNK", 8)  # several pieces, the last one short
        check(summarize("g", measure(start, models)), reference(start, models))


def test_sums_of_two_parameters_are_those_of_both():
    base, *models = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    parts = [measure(base[piece], [model[piece] for model in models]) for piece in (slice(0, 11), slice(11, 30))]
    check(summarize("g", sum(parts, Sums.zero(3))), reference(base, models))


def test_nothing_moved():
    zero = summarize("g", measure(torch.zeros(3), [torch.zeros(3)] * 2))
    assert zero.ratios == (None, None) and zero.cosines == ((None, None), (None, None)) and zero.contested_magnitude == 0
    thirds = torch.full((5,), 1 / 3, dtype=torch.float64)
    alike = measure(None, [thirds] * 3)  # their mean rounds, but they are at their mean all the same
    assert not alike.gram.any() and not alike.changed.any() and not alike.opposite.any()


def test_small_task_vectors_of_large_weights_keep_their_digits():
    base = torch.full((1 << 12,), 1.0)
    expert = base + 2.0**-23  # one unit in the last place of float32
    found = summarize("g", measure(base, [expert, -expert]))
    assert found.norms[0] == 2.0**-23 * 64 and found.cosines[0][1] == pytest.approx(-1)


def test_inputs_are_left_alone():
    base, one, two = (torch.arange(6.0).reshape(2, 3) + shift for shift in range(3))
    copies = [tensor.clone() for tensor in (base, one, two)]
    measure(base, [one, two])
    measure(None, [one, two])
    assert all(torch.equal(tensor, copy) for tensor, copy in zip((base, one, two), copies, strict=True))


def float_tensors(model):
    """Merged parameters by name, the weight-normed one composed by torch itself, sinusoids left out."""
    found = {name: value.detach().numpy() for name, value in model.named_parameters() if "parametrizations" not in name}
    if model.config.model_type == "wav2vec2":
        convolution = model.wav2vec2.encoder.pos_conv_embed.conv
        found["wav2vec2.encoder.pos_conv_embed.conv.weight"] = convolution.weight.detach().numpy()
    found.pop("model.encoder.embed_positions.weight", None)
    return found


@pytest.mark.parametrize("family", ["ctc", "whisper"])
@pytest.mark.parametrize("has_base", [True, False])
def test_groups_of_real_checkpoints(family, has_base, saved):
    models = {"base": tiny_model(family), **{f"e{seed}": fine_tuned(family, seed, 0.01) for seed in (1, 2, 3)}}
    opened = {name: saved(model, name) for name, model in models.items()}
    base = opened.pop("base")
    steps = []
    found = inspect_models(base if has_base else None, opened, lambda done, total: steps.append((done, total)))
    assert steps == [(done, len(steps)) for done in range(1, len(steps) + 1)]
    values = {name: float_tensors(model) for name, model in models.items()}
    places = plan_places({name: value.shape for name, value in values["base"].items()}, models["base"].config.model_type)
    groups = {place.group for place in places.values()}
    assert {row.group for row in found.groups} == groups and set(found.tensors) == set(places)
    for row in (*found.groups, found.overall):
        names = [name for name in sorted(places) if row.group in ("all", places[name].group)]
        arrays = [np.concatenate([value[name].ravel() for name in names]) for value in values.values()]
        wanted = reference(arrays[0] if has_base else None, arrays[1:])
        assert row.parameters == wanted["parameters"]
        # torch composed the weight-normed weight in float32.
        assert row.norms == pytest.approx(wanted["norms"], rel=1e-5)
        assert row.contested == pytest.approx(wanted["contested"], abs=2e-3)
        for (one, two), (cosine, *_) in wanted["pairs"].items():
            assert row.cosines[one][two] == pytest.approx(cosine, abs=1e-5)


def test_groups_run_from_input_to_output(embedded):
    names = [row.group for row in inspect_models(embedded("whisper"), {"same": embedded("whisper")}).groups]
    encoder = [f"encoder.{layer}" for layer in range(5)]
    decoder = [f"decoder.{layer}.{part}" for layer in range(2) for part in ("self", "cross", "ffn")]
    assert names == ["frontend", *encoder, *decoder, "decoder", "embedding", "norms"]


def test_frozen_and_changed_tensors(saved):
    models = {"one": fine_tuned("ctc", 1), "two": fine_tuned("ctc", 2)}
    base = tiny_model("ctc")
    for model in models.values():
        model.wav2vec2.feature_extractor.load_state_dict(base.wav2vec2.feature_extractor.state_dict())
    models["two"].lm_head.load_state_dict(base.lm_head.state_dict())
    found = inspect_models(saved(base, "base"), {name: saved(model, name) for name, model in models.items()})
    extractor = {name for name in found.tensors if "feature_extractor" in name}
    assert extractor and set(found.identical) == extractor == set(found.frozen["one"])
    assert set(found.frozen["two"]) == extractor | {"lm_head.weight", "lm_head.bias"}
    assert set(found.changed_by_one["one"]) == {"lm_head.weight", "lm_head.bias"} and not found.changed_by_one["two"]


def test_a_rescaled_direction_is_no_change(altered, saved):
    base = saved(tiny_model("ctc"), "base")
    name = "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    expert = altered(base.folder, "expert", lambda tensors: tensors | {name: tensors[name] * 3.7})
    overall = inspect_models(base, {"expert": expert}).overall
    assert overall.ratios[0] < 1e-7


def test_precision_and_constants(altered, embedded):
    base = embedded("whisper")
    half = altered(base.folder, "half", lambda tensors: {name: value.float() for name, value in tensors.items()})
    name = "model.encoder.embed_positions.weight"
    moved = altered(base.folder, "moved", lambda tensors: tensors | {name: tensors[name] + 1})
    found = inspect_models(base, {"half": half, "moved": moved})
    assert found.dtypes == {"base": ("float16",), "half": ("float32",), "moved": ("float16",)}
    assert found.identical == found.tensors and found.overall.norms == (0, 0)
    assert found.differing_constants == (name,) and name not in found.tensors


def test_refusals(altered, embedded):
    base = embedded("ctc")
    for arguments in ((base, {}), (None, {"one": base}), (base, {"base": base})):
        with pytest.raises(ConfigError):
            inspect_models(*arguments)
    broken = altered(base.folder, "nan", lambda tensors: tensors | {"lm_head.bias": tensors["lm_head.bias"] * float("nan")})
    with pytest.raises(CheckpointError, match=r"lm_head\.bias in broken"):
        inspect_models(base, {"broken": broken})
