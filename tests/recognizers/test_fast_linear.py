"""oneDNN's linear layers: the same transcripts, and no trace of them afterwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from asrmerge.recognizers import fast_linear as module
from asrmerge.recognizers import load_recognizer
from asrmerge.recognizers.fast_linear import fast_linear

Noises = Callable[..., list[np.ndarray]]
needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this build of torch has no oneDNN linear layers"
)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fast layers on any processor and in any size; how often one was used."""
    calls: list[int] = []
    fast = module._linear

    def counting(layer: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return fast(layer, inputs)

    monkeypatch.setattr(module, "_applies", lambda model: True)
    monkeypatch.setattr(module, "_FEWEST_MULTIPLICATIONS", 0)
    monkeypatch.setattr(module, "_linear", counting)
    return calls


@needs_onednn
@pytest.mark.parametrize("make", ["make_ctc", "make_whisper"])
def test_transcripts_are_the_same(make: str, noises: Noises, used: list[int], request: pytest.FixtureRequest) -> None:
    recognizer, audio = load_recognizer(request.getfixturevalue(make)()), noises(0.7, 0.9, 1.0, 0.35)
    fast = recognizer.transcribe(audio)
    assert len(used) > 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_applies", lambda model: False)
        assert recognizer.transcribe(audio) == fast and len(set(fast)) > 2
    assert not any("forward" in vars(part) for part in recognizer.model.modules())


@needs_onednn
def test_values_agree_and_gradients_and_autocast_are_left_alone(used: list[int]) -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(48, 32), torch.randn(3, 5, 48)
    expected = layer(inputs)
    with fast_linear(layer):
        assert layer(inputs).requires_grad and torch.equal(layer(inputs), expected)
        with torch.no_grad():
            torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-5)
            with fast_linear(layer):  # as long audio is transcribed from within a transcription
                torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-5)
            assert "forward" in vars(layer)
            with torch.autocast("cpu", torch.bfloat16):
                assert layer(inputs).dtype == torch.bfloat16
        assert "forward" in vars(layer)
    assert "forward" not in vars(layer) and len(used) == 5


def test_the_layers_are_restored_when_decoding_fails(used: list[int]) -> None:
    layer = nn.Linear(4, 4)
    with pytest.raises(RuntimeError), fast_linear(layer), torch.no_grad():
        layer(torch.ones(1, 5))
    assert used and "forward" not in vars(layer)


def test_other_models_are_left_alone() -> None:
    layer = nn.Linear(4, 4).to(torch.bfloat16)
    with fast_linear(layer):
        assert "forward" not in vars(layer)
