"""How encoders of every kind fall into stages, and that each stage is heard: identical experts come back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.statistics_reference import plain_copy
from tiny_recognizers import make_utterances

from asrmerge.learning.audio import split_audio
from asrmerge.learning.registry import get_learning_method
from asrmerge.learning.session import Session
from asrmerge.learning.stages import shares_within
from asrmerge.recognizers.recognizer import load_recognizer

ALL = {"conv_layers.0.conv": 1, "projection": 1, "layers.0": 6, "layers.1": 6, "lm_head": 1}


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("wav2vec2", {"feat_extract_norm": "group"}, ALL),
        ("wav2vec2", {"do_stable_layer_norm": True}, ALL),
        ("wav2vec2", {"add_adapter": True, "num_adapter_layers": 1, "adapter_stride": 1}, {**ALL, "adapter.layers.0.conv": 1}),
        ("hubert", {}, ALL),
        ("wavlm", {}, {**ALL, "layers.0": 2, "layers.1": 2}),  # attention hands its weights to a function
        ("data2vec-audio", {}, ALL),
        ("wav2vec2-bert", {}, {"projection": 1, "layers.0": 10, "layers.1": 10, "lm_head": 1}),
    ],
)
def test_identical_experts_of_other_encoders_come_back(
    kind: str, settings: dict[str, Any], expected: dict[str, int], make_ctc: Callable[..., Path], tmp_path: Path
) -> None:
    recognizer: Any = load_recognizer(make_ctc(kind, **settings))
    expert = copy.deepcopy(recognizer.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.add_(0.1 * (0.1 + parameter.abs().mean()) * torch.randn(parameter.shape, generator=generator))
    domains = [
        split_audio(name, make_utterances(tmp_path, name, [0.6, 0.5, 0.6], seed), share=0.0, seed=0, window=None)
        for seed, name in enumerate("ab")
    ]
    session = Session(recognizer, {name: expert.state_dict() for name in "ab"}, domains)
    method = get_learning_method("regmean_plus_plus")
    learned: Any = method.learn(session, method.parameters())
    found, own = plain_copy(recognizer.model).state_dict(), plain_copy(expert).state_dict()
    for name, value in own.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    maps = {one.name: one.maps for one in learned.stages}
    for end, count in expected.items():
        assert next(maps[name] for name in maps if name.endswith(end)) == count
    heard = [one.name for one in learned.stages if one.maps]
    places = [next(index for index, name in enumerate(heard) if name.endswith(end)) for end in ALL if end in expected]
    assert places == sorted(places) and heard[-1] == "lm_head"


def test_shared_inputs_are_led_by_the_first_of_the_stage() -> None:
    """Keys of the second decoder layer share the first one's inputs, which is no part of the stage."""
    shares = {"one.v": "one.k", "two.k": "one.k", "two.v": "one.k", "three.k": "three.q"}
    assert shares_within(shares, ["two.q", "two.k", "two.v"]) == {"two.v": "two.k"}
    assert shares_within(shares, ["one.k", "one.v", "three.q", "three.k"]) == {"one.v": "one.k", "three.k": "three.q"}
    assert shares_within(shares, []) == {}
