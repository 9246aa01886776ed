"""DARE and DELLA: masks seeded by names, and means that are the task vectors."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sparsified
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrmerge.errors import ConfigError
from asrmerge.merging import Block, get_method
from asrmerge.merging.methods._magnitude_sampling import drop_by_rank
from asrmerge.merging.methods._random_masks import MASKS, draw_kept
from asrmerge.validation import validate

RANDOM = ["dare_linear", "dare_ties", "della_linear", "della"]
RANKED = ["della_linear", "della"]
quick = settings(max_examples=40, deadline=None)
ROWS = np.array([[0.3, -0.1, 0.2, 0.9, -0.5], [1.0, 1.0, -1.0, 0.0, 2.0]], np.float32)


def block(*vectors, weights=None, name="x", names=None):
    vectors = [torch.as_tensor(vector, dtype=torch.float32) for vector in vectors]
    names = names or [f"expert{i}" for i in range(len(vectors))]
    return Block(name, torch.zeros_like(vectors[0]), vectors, weights or [1.0] * len(vectors), None, names)


def run(name, made, **parameters):
    method = get_method(name)
    return method.merge(made, method.parameters(**parameters)).double().numpy()


def mean_and_error(name, made, seeds=1500, **parameters):
    """Mean over seeds, and the standard error of that mean, per entry."""
    merged = np.stack([run(name, made, seed=seed, **parameters) for seed in range(seeds)])
    return merged.mean(axis=0), merged.std(axis=0) / np.sqrt(seeds)


def assert_mean(found, error, expected, errors=5.0):
    assert np.all(np.abs(found - expected) <= errors * error + 1e-6), (found, expected, error)
    assert np.all(error < 0.1 * np.maximum(1.0, np.abs(expected)))  # else the check would pass anything


def probabilities(name, vector, density, epsilon=0.15):
    if name in RANKED:
        rows = vector.reshape(-1, vector.shape[-1])
        return np.array([sparsified.della_probabilities(row, density, epsilon) for row in rows]).reshape(vector.shape)
    return np.full(vector.shape, density)


@pytest.mark.parametrize("name", RANDOM)
def test_one_expert_comes_back_in_expectation(name):
    """Its variance is that of Bernoulli(p)/p · τ: τ²(1 − p)/p."""
    mean, error = mean_and_error(name, block(ROWS), density=0.4)
    chances = probabilities(name, ROWS, 0.4)
    variance = ROWS.astype(np.float64) ** 2 * (1 - chances) / chances
    assert_mean(mean, np.sqrt(variance / 1500), ROWS)
    np.testing.assert_allclose(error, np.sqrt(variance / 1500), rtol=0.15)


@pytest.mark.parametrize("name", ["dare_linear", "della_linear"])
def test_linear_means_are_task_arithmetic(name):
    made = block(ROWS, 2 * ROWS[::-1], -ROWS, weights=[0.5, 1.0, -0.25])
    mean, error = mean_and_error(name, made, density=0.5, scale=0.8)
    assert_mean(mean, error, 0.8 * (0.5 * ROWS + 2.0 * ROWS[::-1] + 0.25 * ROWS))


@pytest.mark.parametrize("name", ["dare_ties", "della"])
def test_identical_experts_in_expectation(name):
    """Summed with Σw = 1 they come back; their mean goes over the kept entries, and is (1 − (1 − p)ᵀ)/p times too large."""
    chances = probabilities(name, ROWS, 0.5)
    made = block(ROWS, ROWS, weights=[0.25, 0.75])
    mean, error = mean_and_error(name, made, density=0.5, normalize=False)
    assert_mean(mean, error, ROWS)
    mean, error = mean_and_error(name, made, density=0.5)
    assert_mean(mean, error, ROWS * (1 - (1 - chances) ** 2) / chances)


@quick
@given(
    st.sampled_from([(), (1,), (6,), (3, 4), (2, 3, 2)]),
    st.lists(st.sampled_from([-1.5, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=4),
    st.sampled_from([0.2, 0.5, 0.8]),
    st.integers(0, 2**32),
)
@pytest.mark.parametrize("name", RANDOM)
def test_the_merge_is_the_references_for_the_masks_drawn(name, shape, weights, density, seed):
    """The masks are read off the experts' own merges; what is made of them is computed anew."""
    vectors = [np.random.default_rng(seed + index).normal(size=shape).astype(np.float32) for index in range(len(weights))]
    random = {"density": density, "seed": seed} | ({"epsilon": 0.15} if name in RANKED else {})
    linear = {"dare_ties": "dare_linear", "della": "della_linear"}.get(name, name)
    kept = []
    for index, vector in enumerate(vectors):
        mask = run(linear, block(vector, names=[f"expert{index}"]), **random) != 0
        chances = probabilities(name, np.atleast_1d(vector), density).reshape(shape)
        kept.append(sparsified.rescaled(vector.astype(np.float64), mask, chances))
    merged = run(name, block(*vectors, weights=weights), **random, scale=0.7)
    elected = name in ("dare_ties", "della")
    expected = sparsified.elect(kept, weights) if elected else sum(w * vector for w, vector in zip(weights, kept, strict=True))
    np.testing.assert_allclose(merged, 0.7 * expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RANDOM)
def test_kept_entries_are_divided_by_their_own_probability(name):
    merged = run(name, block(ROWS), density=0.5)
    kept = merged != 0
    np.testing.assert_allclose(merged[kept], (ROWS / probabilities(name, ROWS, 0.5))[kept], rtol=1e-6)


def test_dare_keeps_the_density():
    merged = run("dare_linear", block(np.ones((200, 500))), density=0.3)
    share, error = np.mean(merged != 0), np.sqrt(0.3 * 0.7 / merged.size)
    assert abs(share - 0.3) < 5 * error
    for axis in (0, 1):  # no row, and no column, is treated otherwise
        shares = np.mean(merged != 0, axis=axis)
        assert np.all(np.abs(shares - 0.3) < 5.5 * np.sqrt(0.3 * 0.7 / merged.shape[axis]))


def test_della_keeps_by_rank():
    """Columns of 4000 rows are permuted differently: the share kept follows the magnitude, not the column."""
    generator = np.random.default_rng(0)
    ranks = np.stack([generator.permutation(6) for _ in range(4000)])
    merged = run("della_linear", block((1.0 + ranks) * generator.choice([-1, 1], ranks.shape)), density=0.4, epsilon=0.3)
    for rank, chance in enumerate(np.linspace(0.1, 0.7, 6)):
        assert abs(np.mean(merged[ranks == rank] != 0) - chance) < 5 * np.sqrt(chance * (1 - chance) / 4000)


@pytest.mark.parametrize("shape", [(), (1,), (4, 1), (2, 3, 1)])
@pytest.mark.parametrize("name", RANKED)
def test_rows_of_one_entry_have_the_density(name, shape):
    merged = np.stack([run(name, block(np.ones(shape)), density=0.25, epsilon=0.2, seed=seed) for seed in range(400)])
    assert set(np.unique(merged)) == {0.0, 4.0}
    assert abs(np.mean(merged != 0) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / merged.size)


def test_ranks_of_equal_magnitudes_go_by_column():
    chances = np.array([0.1, 0.1 + 0.8 / 3, 0.1 + 1.6 / 3, 0.9])
    by_rank = np.array([0.5, 0.5, -1.0, 1.0])
    order = [1, 3, 0, 2]  # the columns by magnitude
    for seed in range(20):
        merged = drop_by_rank(0.5, 0.4, np.random.SFC64(seed))(torch.tensor([[-1.0, 0.5, 1.0, 0.5]]))
        kept = draw_kept(np.random.SFC64(seed), chances, (1, 4))[0]
        np.testing.assert_allclose(merged[0].numpy()[order], kept * by_rank / chances, rtol=1e-6)


@pytest.mark.parametrize("chance", [1.5 / 65536, 0.25 + 0.5 / 65536, 1 - 0.5 / 65536, 1.0])
def test_chances_between_two_levels_hold(chance):
    """Of the entries at the level itself, the share is kept that the probability is above it."""
    bits = np.random.SFC64(7).random_raw(1 << 20).astype("<u8").view("<u2")
    level = min(int(chance * 65536), 65535)
    kept = draw_kept(np.random.SFC64(7), np.array([chance]), (len(bits), 1))[:, 0]
    assert kept[bits < level].all() and not kept[bits > level].any()
    at_level = kept[bits == level]
    rest = chance * 65536 - level
    assert len(at_level) > 30
    assert abs(at_level.mean() - rest) <= 5 * np.sqrt(rest * (1 - rest) / len(at_level))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5])
def test_masks_of_any_size(size):
    assert draw_kept(np.random.SFC64(0), np.array([0.5]), (size, 1)).shape == (size, 1)
    assert draw_kept(np.random.SFC64(0), np.full(3, 1.0), (size, 3)).all()


def test_the_masks_stay_what_they_are():
    """Merges of the same seed are the same in all versions, or their provenance names other masks."""
    merged = run("dare_linear", block(np.ones(24)), density=0.5, seed=1)
    assert MASKS == "SFC64, 16 bits"
    assert "".join(str(int(value != 0)) for value in merged) == "101101010100100101001010"


@pytest.mark.parametrize("name", RANDOM)
def test_masks_depend_on_seed_and_names_only(name):
    vectors = [torch.rand(20, 30, generator=torch.Generator().manual_seed(i)) + 0.5 for i in range(3)]
    made = block(*vectors, names=["a", "b", "c"])
    merged = run(name, made)
    np.testing.assert_array_equal(run(name, made), merged)
    np.testing.assert_array_equal(run(name, replace(made, deltas=vectors)), merged)  # as in a search
    backwards = block(*vectors[::-1], names=["c", "b", "a"])
    np.testing.assert_allclose(run(name, backwards), merged, rtol=1e-6)
    assert not np.array_equal(run(name, made, seed=1) != 0, merged != 0)
    assert not np.array_equal(run(name, replace(made, name="y")) != 0, merged != 0)
    alone = [run(name, block(vectors[0], names=[expert])) != 0 for expert in ("a", "b")]
    assert not np.array_equal(*alone)
    # What else is merged changes nothing: with weight 0, the others leave expert a's mask as it is alone.
    with_others = run(name, replace(made, weights=[1.0, 0.0, 0.0]))
    np.testing.assert_allclose(with_others, run(name, block(vectors[0], names=["a"])), rtol=1e-6)


def test_experts_without_names_have_different_masks():
    made = Block("x", torch.zeros(1000), [torch.ones(1000)] * 2, [1.0, 1.0])
    assert set(np.unique(run("dare_linear", made, density=0.5))) == {0.0, 2.0, 4.0}


def test_names_are_not_run_together():
    ones = np.ones(100)
    masks = [run("dare_linear", block(ones, name=name, names=[expert])) for name, expert in [("a", "bc"), ("ab", "c")]]
    assert not np.array_equal(*masks)


def test_another_process_makes_the_same_masks():
    code = """
import torch
from asrmerge.merging import Block, get_method
torch.rand(9)
block = Block("x", torch.zeros(4, 8), [torch.arange(32.0).reshape(4, 8)], [1.0], None, ["é"])
for method in (get_method("dare_linear"), get_method("della_linear")):
    print(method.merge(block, method.parameters(seed=5)).tolist())
"""
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    made = block(np.arange(32.0).reshape(4, 8), names=["é"])
    assert done.stdout.splitlines() == [str(run(name, made, seed=5).tolist()) for name in ("dare_linear", "della_linear")]


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.15), (0.15, 0.15), (0.9, 0.15), (1.0, 0.01)])
def test_impossible_chances_are_refused(name, density, epsilon):
    with pytest.raises(ConfigError, match=r"parameters: density − epsilon is .* from 0.001 to 1; lower epsilon\.$"):
        validate(get_method(name).parameters, {"density": density, "epsilon": epsilon}, "parameters")


@pytest.mark.parametrize(
    ("density", "epsilon"), [(0.85, 0.15), (0.9, 0.1), (0.57, 0.43), (0.151, 0.15), (1.0, 0.0), (0.001, 0.0)]
)
def test_chances_up_to_one_are_possible(density, epsilon):
    merged = run("della_linear", block(ROWS), density=density, epsilon=epsilon)
    assert np.isfinite(merged).all()
    if density + epsilon == 1:
        assert merged[0, 3] == pytest.approx(0.9) and merged[1, 4] == pytest.approx(2.0)  # the largest is certain to be kept


def mergekit(name, vectors, seeds, **parameters):
    api = pytest.importorskip("mergekit.merge_methods.api")
    vectors = [torch.as_tensor(vector, dtype=torch.float32) for vector in vectors]
    merged = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        merged.append(
            api.merge_tensors(
                [torch.zeros_like(vectors[0]), *vectors], name, parameters={"weight": 1.0, **parameters}, base_index=0
            )
        )
    return torch.stack(merged).double().mean(0).numpy()


def test_mergekit_loses_most_of_small_tensors_to_its_l1_norm():
    """One entry, density 0.1: its mean is a tenth of τ, because where the entry is dropped there is nothing to rescale."""
    assert mergekit("dare_linear", [np.ones(1)], 1000, density=0.1)[0] < 0.15
    merged = np.stack([run("dare_linear", block(np.ones(1)), density=0.1, seed=seed) for seed in range(1000)])
    assert abs(merged.mean() - 1) < 5 * np.sqrt(0.9 / 0.1 / 1000)
    assert mergekit("dare_linear", [np.ones(4)], 1000, density=0.1).mean() < 0.5  # 1 − 0.9⁴ = 0.34


def test_mergekit_shrinks_small_entries_with_della():
    """Divided by one number for all, entries of low rank come back as pₜ/p̄ of what they were."""
    vector = np.linspace(1, 1.1, 400, dtype=np.float32).reshape(1, 400)
    mean = mergekit("della_linear", [vector], 300, density=0.5, epsilon=0.4)[0] / vector[0]
    assert mean[:20].mean() < 0.35 and mean[-20:].mean() > 1.5
    own = (
        np.mean([run("della_linear", block(vector), density=0.5, epsilon=0.4, seed=seed) for seed in range(300)], axis=0)[0]
        / vector[0]
    )
    assert abs(own[:20].mean() - 1) < 5 * np.sqrt(9 / 300 / 20)
    assert abs(own[-20:].mean() - 1) < 5 * np.sqrt(0.15 / 300 / 20)


def test_mergekit_stops_on_rows_of_one_entry():
    with pytest.raises(RuntimeError):
        mergekit("della_linear", [np.ones((3, 1))], 1, density=0.5, epsilon=0.1)
    assert np.isfinite(run("della_linear", block(np.ones((3, 1))), density=0.5, epsilon=0.1)).all()
