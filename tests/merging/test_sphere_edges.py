"""SLERP, NuSLERP and the Karcher means at their edges: odd shapes, zeros, opposite vectors, layer groups, refusals."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import sphere
import torch
from sphere_blocks import ALL, FISHER_KARCHER, KARCHER, NUSLERP, SLERP, block, close, run

from asrmerge.errors import ConfigError
from asrmerge.merging import Block
from asrmerge.merging.block import Preparing
from asrmerge.merging.methods._sphere import slerp_coefficients
from asrmerge.merging.methods.karcher import karcher_mean
from asrmerge.merging.structure import Place


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3), (3, 0), (4, 1), (1, 4), (2, 3, 2)])
def test_shapes_and_zeros(method, shape):
    count = 2 if method in (SLERP, NUSLERP) else 3
    base, zeros, ones = (np.full(shape, value, np.float32) for value in (0.5, 0, 1))
    layouts = {SLERP: [None], NUSLERP: ["tensor", "row", "column"]}.get(method, ["tensor", "row"])
    for layout in layouts:
        options = {} if layout is None else {"block": layout}
        for space in ("weights", "task_vectors"):
            same = block(base, [base] * count, [1] * count)
            np.testing.assert_allclose(run(method, same, space=space, **options), base, rtol=1e-6)  # zero task vectors
            some = block(base, [zeros] + [ones] * (count - 1), [1] * count)
            run(method, some, space=space, **options)  # finite
        none = block(zeros, [zeros] * count, [1] * count)
        np.testing.assert_array_equal(run(method, none, **options), zeros)


def test_zero_vectors_have_no_direction():
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    for method in (SLERP, NUSLERP):
        np.testing.assert_allclose(run(method, block(None, [zeros, ones], [1, 3])), 0.75 * ones, rtol=1e-6)
    # They count in the norm only: the mean of the other two directions, times (0 + 2 + 2)/3.
    other = np.float32([1, 1, 1, -1])
    expected = 4 / 3 * sphere.karcher([ones / 2, other / 2], [1, 1])
    close(run(KARCHER, block(None, [zeros, ones, other], [1, 1, 1])), expected)
    # One zero row leaves the others alone; a tiny one is no zero.
    pair = [np.float32([[0, 0], [1, 0], [1e-12, 0]]), np.float32([[0, 0], [0, 1], [0, 1e-12]])]
    merged = run(KARCHER, block(None, pair, [1, 1]), block="row")
    half = np.sqrt(0.5)
    np.testing.assert_allclose(merged, [[0, 0], [half, half], [1e-12 * half] * 2], rtol=1e-6)


@pytest.mark.parametrize(("weights", "expected"), [([2, 1], 4 / 3), ([1, 2], -5 / 3), ([1, 1], 1.5)])
def test_opposite_vectors(weights, expected, caplog):
    """x and −2x: the heavier direction, of equals the first, times the mean norm; and a warning, as other means are as good."""
    one = np.float32([0.6, 0.8])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(run(KARCHER, block(None, [one, -2 * one], weights)), expected * one, rtol=1e-5)
    assert "karcher: in x experts are up to 3.14 rad from their mean, more than π/2 (1 of 1 vectors)" in caplog.text
    for method in (SLERP, NUSLERP):  # the chord, as there are many arcs
        chord = (weights[0] - 2 * weights[1]) / sum(weights) * one
        np.testing.assert_allclose(run(method, block(None, [one, -2 * one], weights)), chord, rtol=1e-5, atol=1e-6)


def test_directions_that_cancel_start_from_the_heaviest():
    corners = [np.float32([np.cos(turn), np.sin(turn)]) for turn in (0, 2 * np.pi / 3, 4 * np.pi / 3)]
    np.testing.assert_allclose(run(KARCHER, block(None, corners, [1, 1, 1])), corners[0], atol=1e-6)


def test_radius_and_iterations(caplog):
    gram = torch.tensor([[[1.0, math.cos(2.0)], [math.cos(2.0), 1.0]], [[4.0, 2.0], [2.0, 1.0]]], dtype=torch.float64)
    mean = karcher_mean(gram, [0.25, 0.75], 100, 1e-9)
    np.testing.assert_allclose(mean.radius, [1.5, 0.0], atol=1e-7)  # a quarter of the arc from one, three from the other
    np.testing.assert_allclose(mean.coefficients[1], [1.25 * 0.25 / 2, 1.25 * 0.75])  # mean norm · share / norm
    assert mean.iterations == 1  # two vectors: along one arc
    assert karcher_mean(gram[1:], [0.25, 0.75]).iterations == 0  # one direction
    three = torch.tensor([[1.0, 0.9, 0.2], [0.9, 1.0, 0.1], [0.2, 0.1, 1.0]], dtype=torch.float64)[None]
    assert 3 < karcher_mean(three, [0.2, 0.5, 0.3], 100, 1e-9).iterations < 100
    assert karcher_mean(three, [0.2, 0.5, 0.3], 3, 1e-9).iterations == 3
    with caplog.at_level(logging.WARNING):
        run(KARCHER, block(None, [np.float32([1, 0]), np.float32([0, 1])], [1, 1]))
    assert not caplog.records


def test_a_row_does_not_depend_on_its_neighbours():
    random = np.random.default_rng(3)
    experts = [random.normal(size=(6, 4)).astype(np.float32) + 1 for _ in range(3)]
    together = run(KARCHER, block(None, experts, [1, 2, 3]), block="row")
    alone = [run(KARCHER, block(None, [expert[row] for expert in experts], [1, 2, 3])) for row in range(6)]
    np.testing.assert_array_equal(together, np.stack(alone))


def test_slerp_tells_where_it_is_linear(caplog):
    cosines = torch.tensor([0.99, 0.9999, -0.9999, 1.0, -1.0, 0.0], dtype=torch.float64)
    gram = torch.eye(2, dtype=torch.float64).repeat(6, 1, 1)
    gram[:, 0, 1] = gram[:, 1, 0] = cosines
    gram[5, 0, 0] = 0  # a zero vector
    assert slerp_coefficients(gram, 0.3, 0.9995)[1].tolist() == [False, True, True, True, True, True]
    assert slerp_coefficients(gram, 0.3)[1].tolist() == [False, False, False, True, True, True]
    np.testing.assert_allclose(slerp_coefficients(gram, 0.3)[0][3:], [[0.7, 0.3]] * 3)
    wide = block(None, [np.float32([1, 0]), np.float32([0, 1])], [1, 3])
    close_by = replace(block(None, [np.float32([1, 0]), np.float32([1, 0.001])], [1, 3]), name="y")
    with caplog.at_level(logging.DEBUG):
        SLERP.prepare(lambda: iter([wide]), SLERP.parameters())
        assert not caplog.records
        prepared = SLERP.prepare(lambda: iter([wide, close_by]), SLERP.parameters())
    assert caplog.messages == [
        "slerp: 1 of 2 tensors are interpolated linearly: their cosines are beyond 0.9995, or there is no arc between them",
        "slerp: interpolated linearly are y",
    ]
    for made in (wide, close_by):
        np.testing.assert_array_equal(run(SLERP, replace(made, prepared=prepared)), run(SLERP, made))


# Layer groups


def grouped(shapes, groups, random, weights=(1, 2, 1)):
    """Blocks with base and Fisher diagonals."""
    made = []
    for index, (shape, group) in enumerate(zip(shapes, groups, strict=True)):
        base, *experts = (torch.tensor(random.normal(size=shape).astype(np.float32) + 1) for _ in range(len(weights) + 1))
        fishers = [torch.tensor(random.uniform(0.5, 2, size=shape).astype(np.float32)) for _ in weights]
        made.append(Block(f"x{index}", base, experts, list(weights), place=Place(group), fishers=fishers))
    return made


@pytest.mark.parametrize("space", ["weights", "task_vectors"])
@pytest.mark.parametrize("method", [KARCHER, FISHER_KARCHER], ids=lambda method: method.name)
def test_group_is_the_mean_of_its_concatenated_tensors(method, space):
    assert isinstance(method, Preparing)
    made = grouped([(3, 4), (5,), (2, 2, 2), ()], ["encoder.0", "encoder.0", "encoder.1", "encoder.0"], np.random.default_rng(4))
    options = {"floor": 0.0} if method is FISHER_KARCHER else {}  # the floor is one of each tensor
    parameters = method.parameters(block="group", space=space, **options)
    prepared = method.prepare(lambda: iter(made), parameters)
    for group in ("encoder.0", "encoder.1"):
        members = [each for each in made if each.place.group == group]

        def join(tensors):
            return torch.cat([tensor.reshape(-1) for tensor in tensors])

        whole = Block(
            "whole",
            join([each.base for each in members]),
            [join([each.experts[index] for each in members]) for index in range(3)],
            [1, 2, 1],
            fishers=[join([each.fishers[index] for each in members]) for index in range(3)],
        )
        expected = method.merge(whole, parameters.model_copy(update={"block": "tensor"}))
        merged = [method.merge(Block(**{**vars(each), "prepared": prepared}), parameters) for each in members]
        assert [tensor.shape for tensor in merged] == [each.shape for each in members]
        close(join(merged).numpy(), expected.numpy(), 1e-6)


def test_groups_may_have_weights_of_their_own():
    made = grouped([(3, 4), (5,), (2, 2)], ["encoder.0", "encoder.0", "encoder.1"], np.random.default_rng(5))
    chosen = [Block(**{**vars(each), "weights": [1, 0, 0] if each.place.group == "encoder.0" else [0, 0, 1]}) for each in made]
    parameters = KARCHER.parameters(block="group")
    prepared = KARCHER.prepare(lambda: iter(chosen), parameters)
    for each in chosen:
        merged = KARCHER.merge(Block(**{**vars(each), "prepared": prepared}), parameters)
        close(merged.numpy(), each.experts[each.weights.index(1)].numpy(), 1e-6)


def test_prepare_is_for_groups_only(caplog):
    def never():
        raise AssertionError("read the model for nothing")

    for method in (KARCHER, FISHER_KARCHER):
        assert method.prepare(never, method.parameters()) is None
        assert method.prepare(never, method.parameters(block="row")) is None
        with pytest.raises(ConfigError, match=f"{method.name} of layer groups needs the whole model first"):
            run(method, block(None, [np.ones(2, np.float32)], [1]), block="group")
    made = Block("x", None, [torch.ones(2), -2 * torch.ones(2)], [1, 2], place=Place("encoder.3"))
    with caplog.at_level(logging.WARNING):
        KARCHER.prepare(lambda: iter([made]), KARCHER.parameters(block="group"))
    assert "karcher: in encoder.3 experts are up to 3.14 rad" in caplog.text


# Refusals


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_refusals(method):
    experts = [np.float32([1, 2]), np.float32([2, 1])]
    for weights in ([-1, 2], [0, 0]):
        with pytest.raises(ConfigError, match=f"{method.name} averages with weights of 0 or more, not all 0: change them"):
            run(method, block(None, experts, weights))
    with pytest.raises(ConfigError, match=f"{method.name} of task vectors needs a base: name it in the recipe, or set space"):
        run(method, block(None, experts, [1, 1]), space="task_vectors")
    if method in (SLERP, NUSLERP):
        for count in (1, 3):
            with pytest.raises(ConfigError, match=f"{method.name} merges exactly two experts and has {count}: give two"):
                run(method, block(None, experts[:1] * count, [1] * count))


def test_fisher_is_needed():
    made = Block("x", None, [torch.ones(2)], [1.0])
    told = "has none of x: give its 'fisher' or 'statistics' with each expert in the recipe"
    with pytest.raises(ConfigError, match=told):
        FISHER_KARCHER.merge(made, FISHER_KARCHER.parameters())
    with pytest.raises(ConfigError, match=told):
        FISHER_KARCHER.prepare(lambda: iter([made]), FISHER_KARCHER.parameters(block="group"))
    with pytest.raises(ConfigError, match="the Fisher information of x has negative entries: compute it again"):
        run(FISHER_KARCHER, block(None, [np.ones(2, np.float32)], [1], fishers=[np.float32([1, -1])]))
