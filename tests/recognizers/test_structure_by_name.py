"""Places told from names and shapes are those that the recognisers tell from the module tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from asrmerge.checkpoints.names import canonical_name
from asrmerge.merging.structure import matches, plan_places
from asrmerge.recognizers.recognizer import Recognizer, load_recognizer

Make = Callable[..., Path]
TYPES = [("wav2vec2", {}), ("wav2vec2", {"do_stable_layer_norm": True}), ("wav2vec2", {"add_adapter": True})]
TYPES += [(model_type, {}) for model_type in ("hubert", "wavlm", "data2vec-audio", "wav2vec2-bert")]


def check(recognizer: Recognizer) -> None:
    shapes = {canonical_name(name): tuple(tensor.shape) for name, tensor in recognizer.model.named_parameters()}
    places = plan_places(shapes, recognizer.model.config.model_type)
    expected = {canonical_name(name): group for group, names in recognizer.groups().items() for name in names}
    assert {name: place.group for name, place in places.items()} == expected
    for name, place in places.items():
        inside = ".layers." in name.replace("pos_conv_embed.layers", "").replace("adapter.layers", "")
        assert (place.layer is None) != inside and (place.depth in (0.0, 1.0)) == inside
    for name, module in recognizer.model.named_modules():
        for parameter, _ in module.named_parameters(recurse=False):
            role = places.get(f"{name}.{parameter}" if name else parameter)
            if role is None or "parametrizations" in name:
                continue
            if isinstance(module, nn.Linear) and parameter == "weight":
                assert role.role == ("head" if name in ("lm_head", "proj_out") else "linear"), name
            if isinstance(module, (nn.LayerNorm, nn.BatchNorm1d, nn.GroupNorm)):
                assert role.role == "norm", name
            if isinstance(module, nn.Conv1d) and parameter == "weight":
                assert role.role == "convolution", name
            if isinstance(module, nn.Embedding):
                assert role.role == "embedding", name


@pytest.mark.parametrize(("model_type", "settings"), TYPES)
def test_ctc(make_ctc: Make, model_type: str, settings: dict) -> None:
    check(load_recognizer(make_ctc(model_type, **settings)))


@pytest.mark.parametrize("tied", [True, False])
def test_whisper(make_whisper: Make, tied: bool) -> None:
    check(load_recognizer(make_whisper(tie_word_embeddings=tied)))


def test_depth_runs_from_zero_to_one_in_each_stack() -> None:
    layers = {"encoder": 3, "decoder": 1}
    names = {f"model.{stack}.layers.{n}.fc1.weight": (4, 2) for stack, count in layers.items() for n in range(count)}
    places = plan_places(names, "whisper")
    assert [places[f"model.encoder.layers.{n}.fc1.weight"].depth for n in range(3)] == [0, 0.5, 1]
    assert places["model.decoder.layers.0.fc1.weight"].depth == 1
    assert plan_places({"proj_out.weight": (2, 2)}, "whisper")["proj_out.weight"].depth is None


@pytest.mark.parametrize(
    ("group", "wanted", "expected"),
    [
        ("decoder.0.self", "decoder", True),
        ("decoder.0.self", "decoder.*.self", True),
        ("decoder.0.cross", "decoder.*.self", False),
        ("encoder.10", "encoder.1", False),
        ("encoder", "encoder.1", False),
        ("encoder_attn", "encoder", False),
    ],
)
def test_groups_nest_by_segments(group: str, wanted: str, expected: bool) -> None:
    assert matches(group, wanted) is expected
