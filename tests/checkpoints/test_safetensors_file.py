"""Safetensors files in pieces: what the safetensors library reads and writes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from asrmerge.checkpoints.safetensors_file import DTYPES, SafetensorsReader, SafetensorsWriter, TensorSpec

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def random_tensor(dtype, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2 if dtype == torch.bool else 100, shape, generator=generator).to(dtype)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(DTYPES.values(), key=str)), SHAPES), min_size=1, max_size=6), st.randoms())
def test_what_is_written_in_any_order_and_pieces_is_what_the_library_reads(tmp_path_factory, made, random):
    path = tmp_path_factory.mktemp("file") / "model.safetensors"
    tensors = {f"t{index}": random_tensor(dtype, shape, index) for index, (dtype, shape) in enumerate(made)}
    pieces = []
    for name, tensor in tensors.items():
        cut = random.randint(0, tensor.numel())
        pieces += [(name, 0, tensor.flatten()[:cut]), (name, cut, tensor.flatten()[cut:])]
    random.shuffle(pieces)
    with SafetensorsWriter(path, {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in tensors.items()}) as writer:
        for name, start, piece in pieces:
            writer.write(name, piece, start)
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)


def test_pieces_from_several_threads_and_the_same_bytes(tmp_path):
    tensor = torch.randn(1000, 33)
    for path in (tmp_path / "one", tmp_path / "two"):
        with SafetensorsWriter(path, {"w": TensorSpec(torch.float32, (1000, 33))}) as writer, ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda start: writer.write("w", tensor.flatten()[start : start + 100], start), range(0, 33_000, 100)))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert torch.equal(load_file(tmp_path / "one")["w"], tensor)


def test_a_tensor_that_was_forgotten_is_noticed(tmp_path):
    with (
        pytest.raises(AssertionError, match="never written: b"),
        SafetensorsWriter(tmp_path / "model.safetensors", {name: TensorSpec(torch.float32, (2,)) for name in "ab"}) as writer,
    ):
        writer.write("a", torch.zeros(2))
        writer.write("b", torch.zeros(1))


@pytest.mark.parametrize("dtype", list(DTYPES.values()))
def test_elements_are_those_of_the_flattened_tensor(tmp_path, dtype):
    tensors = {"odd": random_tensor(torch.uint8, (3,)), "x": random_tensor(dtype, (4, 5)), "empty": random_tensor(dtype, (0, 2))}
    save_file(tensors, tmp_path / "model.safetensors")
    reader = SafetensorsReader(tmp_path / "model.safetensors")
    assert sorted(reader.names()) == sorted(tensors) and reader.dtype("x") == dtype and reader.shape("x") == (4, 5)
    for start, stop in ((0, 20), (3, 11), (7, 7)):
        assert torch.equal(reader.read_elements("x", start, stop), tensors["x"].flatten()[start:stop])
    assert all(torch.equal(reader.read(name), tensor) for name, tensor in tensors.items())
    one = reader.read("x")
    one.zero_()  # a tensor of its own, not the file's memory
    assert torch.equal(reader.read("x"), tensors["x"])
