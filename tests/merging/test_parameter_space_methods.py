"""The methods on weights alone, against float64 NumPy and mergekit, and the invariants of the methods' page."""

from __future__ import annotations

import math

import numpy as np
import parameter_space as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from asrmerge.errors import ConfigError
from asrmerge.merging import Block, get_method
from asrmerge.merging.structure import NOWHERE, Place, plan_places

quick = settings(max_examples=30, deadline=None)
# Enough for T = 4 to keep every entry that all agree on.
EVERYTHING = {
    "sce": {"density": 1.0},
    "consensus": {"mask_scale": 0.3},
    "pcb": {"density": 1.0},
    "lines": {"alpha": 0.0, "beta": 1.0},
}
TASK_VECTOR = ["sce", "consensus", "pcb", "lines"]
SEVERAL = ["rescaled_mean", "model_stock", *TASK_VECTOR]


@st.composite
def cases(draw, least=1, low=0.1):
    """Base, experts and weights. The entries are normal deviates: methods that rank or vote must not meet near-ties."""
    shape = draw(st_numpy.array_shapes(min_dims=0, max_dims=3, max_side=4))
    count = draw(st.integers(least, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    base = random.normal(size=shape).astype(np.float32)
    size = draw(st.sampled_from([1e-3, 1.0]))
    changes = size * (random.normal(size=shape) + random.normal(size=(count, *shape)))
    tenths = draw(st.lists(st.integers(round(10 * low), 20), min_size=count, max_size=count))
    return base, [(base + change).astype(np.float32) for change in changes], [tenth / 10 for tenth in tenths]


def run(name, base, experts, weights, held=False, place=NOWHERE, **parameters):
    """The method's result, checked for what all of them must keep."""
    tensors = [torch.tensor(array) for array in (base, *experts)]
    copies = [tensor.clone() for tensor in tensors]
    deltas = [expert - tensors[0] for expert in tensors[1:]] if held else None
    names = [f"expert {index}" for index in range(len(experts))]
    method = get_method(name)
    block = Block("x", tensors[0], tensors[1:], weights, deltas, names, place)
    merged = method.merge(block, method.parameters(**parameters))
    assert merged.dtype == torch.float32 and merged.shape == tensors[0].shape and bool(torch.isfinite(merged).all())
    for before, after in zip(copies, tensors, strict=True):
        assert torch.equal(before, after)  # inputs are never written to
        assert after.numel() == 0 or merged.data_ptr() != after.data_ptr()
    return merged.numpy()


def close(one, two, base=0.0):
    """Relative to the change where ``base`` is given: a method that does nothing must not pass because the change is small."""
    change = np.abs(np.asarray(two, dtype=np.float64) - base).max(initial=0)
    np.testing.assert_allclose(one, two, rtol=1e-6, atol=2e-6 + 1e-5 * change)


@quick
@given(cases(), st.booleans(), st.booleans())
def test_rescaled_mean_is_the_reference(case, held, whole):
    base, experts, weights = case
    merged = run("rescaled_mean", base, experts, weights, held, space="weights" if whole else "task_vectors")
    close(merged, reference.rescaled_mean(None if whole else base, experts, weights), base)
    origin = 0 if whole else base
    lengths = [np.linalg.norm((expert - origin).astype(np.float64)) for expert in experts]
    assert np.linalg.norm((merged - origin).astype(np.float64)) == pytest.approx(
        np.average(lengths, weights=weights), rel=1e-3 if origin is base else 1e-5, abs=1e-5
    )


@quick
@given(cases(), st.booleans())
def test_model_stock_is_the_reference(case, held):
    base, experts, weights = case
    close(run("model_stock", base, experts, weights, held), reference.model_stock(base, experts, weights), base)


@quick
@given(cases(low=-2), st.sampled_from([0.01, 0.29, 0.5, 1.0]), st.floats(-2, 2), st.booleans())
@pytest.mark.parametrize("name", ["sce", "pcb"])
def test_sce_and_pcb_are_the_reference(name, case, density, scale, held):
    base, experts, weights = case
    merged = run(name, base, experts, weights, held, density=density, scale=scale)
    close(merged, getattr(reference, name)(base, experts, weights, density, scale), base)


@quick
@given(cases(low=-2), st.floats(0, 1), st.integers(1, 5), st.floats(-2, 2), st.booleans())
def test_consensus_is_the_reference(case, mask_scale, least, scale, held):
    base, experts, weights = case
    merged = run("consensus", base, experts, weights, held, mask_scale=mask_scale, minimum_tasks=least, scale=scale)
    close(merged, reference.consensus(base, experts, weights, mask_scale, least, scale), base)


@quick
@given(cases(low=-2), st.floats(0, 2), st.floats(-2, 2), st.floats(-2, 2), st.integers(1, 5), st.data())
def test_lines_is_the_reference(case, alpha, beta, scale, layers, data):
    base, experts, weights = case
    layer = data.draw(st.integers(0, layers - 1))
    ramp = layer / (layers - 1) if layers > 1 else 1.0
    place = Place(f"encoder.{layer}", "linear", "encoder", layer, layers)
    merged = run("lines", base, experts, weights, place=place, alpha=alpha, beta=beta, scale=scale)
    close(merged, reference.lines(base, experts, weights, scale * (alpha + beta * ramp)), base)


@quick
@given(cases(), st.floats(0, 1))
def test_wise_ft_is_the_reference(case, alpha):
    base, experts, _ = case
    close(run("wise_ft", base, experts[:1], [1.0], alpha=alpha), reference.wise_ft(base, experts[0], alpha), base)
    np.testing.assert_array_equal(run("wise_ft", base, experts[:1], [1.0], alpha=0.0), base)
    np.testing.assert_array_equal(run("wise_ft", base, experts[:1], [1.0], alpha=1.0), experts[0])


@quick
@given(cases(least=2), st.randoms())
@pytest.mark.parametrize("name", SEVERAL)
def test_permuting_pairs_changes_nothing(name, case, random):
    base, experts, weights = case
    order = list(range(len(experts)))
    random.shuffle(order)
    close(run(name, base, experts, weights), run(name, base, [experts[i] for i in order], [weights[i] for i in order]), base)


@quick
@given(cases(), st.data())
@pytest.mark.parametrize("name", SEVERAL)
def test_one_hot_weight_returns_that_expert(name, case, data):
    base, experts, _ = case
    chosen = data.draw(st.integers(0, len(experts) - 1))
    weights = [float(i == chosen) for i in range(len(experts))]
    close(run(name, base, experts, weights, **EVERYTHING.get(name, {})), experts[chosen], base)


@quick
@given(cases(), st.booleans())
@pytest.mark.parametrize("name", ["rescaled_mean", "model_stock", "sce", "pcb"])
def test_identical_experts_come_back(name, case, held):
    base, experts, weights = case
    same = [experts[0]] * len(experts)
    chosen = weights if name in ("rescaled_mean", "model_stock") else [1.0] * len(experts)
    close(run(name, base, same, chosen, held, **EVERYTHING.get(name, {})), experts[0], base)
    if name == "sce":  # nothing varies, so there is nothing to select by
        close(run(name, base, same, chosen, held, density=0.1), experts[0], base)


@quick
@given(cases())
@pytest.mark.parametrize("name", TASK_VECTOR)
def test_zero_coefficients_return_the_base(name, case):
    base, experts, weights = case
    for held in (False, True):
        np.testing.assert_array_equal(run(name, base, experts, [0.0] * len(experts), held), base)
        np.testing.assert_array_equal(run(name, base, experts, weights, held, scale=0.0), base)


@quick
@given(cases(least=2), st.booleans())
@pytest.mark.parametrize("name", ["rescaled_mean", "model_stock", "sce", "consensus", "pcb"])
def test_an_expert_of_weight_zero_takes_no_part(name, case, held):
    base, experts, weights = case
    with_zero = run(name, base, experts, [*weights[:-1], 0.0], held)
    close(with_zero, run(name, base, experts[:-1], weights[:-1], held), base)


@quick
@given(cases(), st.sampled_from([0.25, 0.5, 2.0]))
@pytest.mark.parametrize("name", ["rescaled_mean", "model_stock", *TASK_VECTOR])
def test_scaling_the_task_vectors_scales_the_change(name, case, factor):
    base, experts, weights = case
    zero = np.zeros_like(base)
    changes = [expert - base for expert in experts]
    one = run(name, zero, changes, weights)
    close(run(name, zero, [np.float32(factor) * change for change in changes], weights), factor * one, zero)


@pytest.mark.parametrize("name", [*SEVERAL, "wise_ft"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 3), (3, 1), (5,)])
@pytest.mark.parametrize("size", [0.0, 1e-42, 1e-20, 1.0, 1e8])
def test_edges_are_finite(name, shape, size):
    base = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    change = np.full(shape, size, dtype=np.float32)
    for changes in ([change], [change, change], [change, -change], [change, 0 * change, 2 * change]):
        for origin in (base, 0 * base):
            experts = [origin + each for each in changes[: 1 if name == "wise_ft" else None]]
            for more in [{"density": 0.3}, {"density": 1.0}] if name in ("sce", "pcb") else [{}]:
                run(name, origin, experts, [1.0] * len(experts), **more)
    run("rescaled_mean", base, [change, -change], [1.0, 1.0], space="task_vectors")


def test_experts_that_cancel_have_no_direction():
    expert = np.array([3.0, 4.0], np.float32)
    np.testing.assert_array_equal(run("rescaled_mean", 0 * expert, [expert, -expert], [1.0, 1.0]), [0, 0])
    np.testing.assert_allclose(run("rescaled_mean", 0 * expert, [expert, -expert], [3.0, 1.0]), expert, rtol=1e-6)


def test_rescaling_is_exact_on_large_tensors():
    """Float32's own norm of so many entries is off by more than 1e-5."""
    expert = np.random.default_rng(0).normal(size=3_000_000).astype(np.float32)
    other = np.float32(2) * expert[::-1].copy()
    merged = run("rescaled_mean", 0 * expert, [expert, other], [1.0, 1.0])
    assert np.linalg.norm(merged.astype(np.float64)) == pytest.approx(1.5 * np.linalg.norm(expert.astype(np.float64)), rel=1e-6)


@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_model_stock_by_hand(size):
    """c = ½ for two at 60°: t = 2·½/(1 + ½) = ⅔, whatever the length."""
    base, sixty = np.zeros(2, np.float32), [[1.0, 0.0], [0.5, math.sqrt(0.75)]]
    experts = [np.array(vector, np.float32) * np.float32(size) for vector in sixty]
    np.testing.assert_allclose(
        run("model_stock", base, experts, [1.0, 1.0]), size * np.array([0.5, math.sqrt(1 / 12)]), rtol=1e-5
    )
    np.testing.assert_allclose(
        run("model_stock", base, experts, [3.0, 1.0]), size * np.array([7 / 12, math.sqrt(1 / 48)]), rtol=1e-5
    )
    opposed = [experts[0], -experts[1]]
    np.testing.assert_array_equal(run("model_stock", base, opposed, [1.0, 1.0]), base)
    frozen = [*experts, 0 * experts[0]]  # c = ⅙, t = 3·⅙/(1 + 2·⅙) = ⅜
    np.testing.assert_allclose(run("model_stock", base, frozen, [1.0] * 3), 0.375 * sum(experts) / 3, rtol=1e-5)


def test_sce_by_hand():
    base = np.zeros(4, np.float32)
    experts = [np.array([1, 2, -3, 0], np.float32), np.array([1, -1, -1, 0], np.float32)]  # energies 14 and 3
    np.testing.assert_allclose(run("sce", base, experts, [1.0, 1.0]), [1, 2, -(3 * 14 + 3) / 17, 0], rtol=1e-6)
    np.testing.assert_allclose(
        run("sce", base, experts, [1.0, 1.0], density=0.5), [0, 2, 0, 0], rtol=1e-6
    )  # 1 of the 2 that vary
    np.testing.assert_allclose(run("sce", base, experts, [1.0, 1.0], density=0.01), [0, 2, 0, 0], rtol=1e-6)
    tied = [np.array([1, 3], np.float32), np.array([-1, 1], np.float32)]  # energies 10 and 2; no minority in the first entry
    np.testing.assert_allclose(run("sce", base[:2], tied, [1.0, 1.0]), [8 / 12, 32 / 12], rtol=1e-6)


def test_consensus_by_hand():
    base = np.zeros(4, np.float32)
    experts = [np.array([1, 1, 0, 3], np.float32), np.array([1, 0, 0, -1], np.float32), np.array([1, 0, 0, 0], np.float32)]
    np.testing.assert_array_equal(run("consensus", base, experts, [1.0] * 3), [3, 0, 0, 0])
    np.testing.assert_array_equal(run("consensus", base, experts, [1.0] * 3, minimum_tasks=1), [3, 1, 0, 2])
    np.testing.assert_array_equal(run("consensus", base, experts, [1.0] * 3, mask_scale=0.3), [3, 0, 0, 2])  # 1 ≥ 0.3·3
    np.testing.assert_array_equal(run("consensus", base, experts, [0.5] * 3, scale=2.0), [3, 0, 0, 0])  # the size of weights
    even = [np.array([2], np.float32), np.array([4], np.float32)]  # 2 ≥ ½·4 counts
    np.testing.assert_array_equal(run("consensus", base[:1], even, [1.0] * 2, mask_scale=0.5), [6])
    np.testing.assert_array_equal(run("consensus", base, experts[:1], [1.0]), experts[0])  # 2 of 1 cannot be asked for
    for scale, kept in ((0.3, True), (0.4, False)):  # four that agree: 1 ≥ μ·3
        merged = run("consensus", base, experts[1:2] * 4, [0.25] * 4, mask_scale=scale)
        np.testing.assert_array_equal(merged, experts[1] if kept else base)


def test_pcb_by_hand():
    base = np.zeros(2, np.float32)
    experts = [np.array([1, 0], np.float32), np.array([0, 2], np.float32)]
    # Norms of δδ are [1, 0] and [0, 1], of the mixed products 0: softmax over two entries.
    high, low = math.e / (1 + math.e), 1 / (1 + math.e)
    sharp = math.exp(2) / (1 + math.exp(2))
    large, small = sharp * (high + 0.5), (1 - sharp) * (low + 0.5)
    share = large / (large + small)
    np.testing.assert_allclose(run("pcb", base, experts, [1.0, 1.0], density=1.0), [share, 2 * share], rtol=1e-6)
    np.testing.assert_allclose(run("pcb", base, experts, [1.0, 1.0], density=0.5), [1, 2], rtol=1e-6)
    np.testing.assert_allclose(run("pcb", base, experts, [1.0, -3.0], density=0.5), [1, -6], rtol=1e-6)
    both = [np.array([2, 0.5], np.float32), np.array([2, -0.5], np.float32)]  # the second entry is kept by none
    np.testing.assert_allclose(run("pcb", base, both, [1.0, 1.0], density=0.5), [2, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("model_type", "name", "depth"),
    [
        ("whisper", "model.encoder.conv1.weight", 0),
        ("whisper", "model.encoder.layers.0.fc1.weight", 0),
        ("whisper", "model.encoder.layers.2.fc1.weight", 1),
        ("whisper", "model.encoder.layers.1.final_layer_norm.weight", 0.5),
        ("whisper", "model.encoder.layer_norm.weight", 1),
        ("whisper", "model.decoder.embed_positions.weight", 0),
        ("whisper", "model.decoder.embed_tokens.weight", 0),
        ("whisper", "model.decoder.layers.0.encoder_attn.q_proj.weight", 1),  # the only layer of its stack
        ("whisper", "model.decoder.layer_norm.bias", 1),
        ("wav2vec2", "wav2vec2.feature_projection.layer_norm.weight", 0),
        ("wav2vec2", "wav2vec2.masked_spec_embed", 0),
        ("wav2vec2", "wav2vec2.encoder.pos_conv_embed.conv.weight", 0),
        ("wav2vec2", "wav2vec2.encoder.layers.1.attention.k_proj.weight", 0.5),
        ("wav2vec2", "lm_head.weight", 1),
    ],
)
def test_lines_ramps(model_type, name, depth):
    prefix = "model." if model_type == "whisper" else "wav2vec2."
    last = {f"{prefix}encoder.layers.2.fc1.weight": (2, 2), name: (2, 2)}
    place = plan_places(last, model_type)[name]
    one = np.ones(1, np.float32)
    assert run("lines", 0 * one, [one], [1.0], place=place, alpha=0.1, beta=0.6)[0] == pytest.approx(0.1 + 0.6 * depth)


@quick
@given(cases(least=2))
def test_model_stock_is_mergekits(case):
    base, experts, _ = case
    cosines = [reference._cosine(one - base, two - base) for i, one in enumerate(experts) for two in experts[:i]]
    lengths = [np.linalg.norm(expert - base) for expert in experts]
    if np.mean(cosines) > 0.01 and min(lengths) > 1e-2:  # elsewhere mergekit leaves t unclamped, or its floor shrinks the cosine
        ones = [1.0] * len(experts)
        close(run("model_stock", base, experts, ones), mergekit("model_stock", base, experts, filter_wise=False), base)


@quick
@given(cases(), st.sampled_from([0.5, 1.0]))
def test_sce_is_mergekits(case, density):
    base, experts, _ = case
    energy = sum(np.mean((expert - base) ** 2) for expert in experts)
    # Elsewhere mergekit takes equal weights, selects nothing, or has no variance to select by.
    if energy > 1e-3 and (density == 1 or (len(experts) > 1 and base.size > 1)):
        merged = mergekit("sce", base, experts, select_topk=density)
        close(run("sce", base, experts, [1.0] * len(experts), density=density), merged, base)


def test_mergekit_forgets_the_energies_of_close_fine_tunes():
    """η is ⅘ and ⅕ at any scale; mergekit has ½ and ½ on changes of 1e-4."""
    base = np.zeros(2, np.float32)
    experts = [np.array([2e-4, 2e-4], np.float32), np.array([1e-4, 1e-4], np.float32)]
    np.testing.assert_allclose(run("sce", base, experts, [1.0, 1.0]), [1.8e-4] * 2, rtol=1e-5)
    np.testing.assert_allclose(mergekit("sce", base, experts, select_topk=1.0), [1.5e-4] * 2, rtol=1e-5)


def test_mergekit_leaves_the_segment_where_experts_disagree():
    base = np.zeros(2, np.float32)
    experts = [np.array([1.0, 0.0], np.float32), np.array([-0.5, 0.5], np.float32)]
    assert mergekit("model_stock", base, experts, filter_wise=False)[1] < -0.5
    np.testing.assert_array_equal(run("model_stock", base, experts, [1.0, 1.0]), base)


def mergekit(name, base, experts, **parameters):
    api = pytest.importorskip("mergekit.merge_methods.api")
    return api.merge_tensors(
        [torch.tensor(array) for array in (base, *experts)], name, parameters=parameters, base_index=0
    ).numpy()


@pytest.mark.parametrize("name", ["wise_ft", "model_stock", *TASK_VECTOR])
def test_base_is_needed(name):
    method = get_method(name)
    assert method.needs_base
    with pytest.raises(ConfigError, match=f"{name} needs a base: name it in the recipe"):
        method.merge(Block("x", None, [torch.ones(2)], [1.0]), method.parameters())


def test_rescaled_mean_needs_a_base_for_task_vectors_only():
    method = get_method("rescaled_mean")
    block = Block("x", None, [torch.ones(2)], [1.0])
    assert not method.needs_base
    assert torch.equal(method.merge(block, method.parameters()), torch.ones(2))
    with pytest.raises(ConfigError, match="rescaled_mean in the space task_vectors needs a base: name it"):
        method.merge(block, method.parameters(space="task_vectors"))


def test_bad_weights_and_counts_are_refused():
    one = np.ones(2, np.float32)
    for weights in ([1.0, -1.0], [2.0, -1.0], [0.0, 0.0]):
        with pytest.raises(ConfigError, match="rescaled_mean averages with weights of 0 or more, not all 0: change"):
            run("rescaled_mean", one, [one, one], weights)
    with pytest.raises(ConfigError, match="model_stock cannot average with weights that sum to 0: change a weight"):
        run("model_stock", one, [one, one], [1.0, -1.0])
    with pytest.raises(ConfigError, match="exactly one expert, not 2: use task_arithmetic for several"):
        run("wise_ft", one, [one, one], [1.0, 1.0])
    with pytest.raises(ConfigError, match=r"no weight other than 1, not 0\.5: set its parameter alpha"):
        run("wise_ft", one, [one], [0.5])


@pytest.mark.parametrize("name", [*SEVERAL, "wise_ft"])
def test_every_parameter_is_described(name):
    method = get_method(name)
    for field in method.parameters.model_fields.values():
        assert field.description
    assert type(method).__doc__.splitlines()[0].endswith(".")
