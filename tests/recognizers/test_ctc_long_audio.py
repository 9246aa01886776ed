"""CTC beyond the chunk length: windows that overlap, put together again at the middles of what they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import pipeline

from asrmerge.content import resolve_model
from asrmerge.recognizers import load_recognizer
from asrmerge.recognizers.families.ctc import CtcRecognizer
from asrmerge.recognizers.windows import middles, overlapping_windows

Make = Callable[..., Path]
Noises = Callable[..., list[np.ndarray]]
# With kernels that see less than the stride.
FAMILIES = [
    ("wav2vec2", {}),
    ("wav2vec2", {"do_stable_layer_norm": True}),
    ("wav2vec2", {"add_adapter": True}),
    ("hubert", {}),
    ("wavlm", {}),
    ("data2vec-audio", {"conv_pos_kernel_size": 3}),
    ("wav2vec2-bert", {"conv_depthwise_kernel_size": 7}),
    ("wav2vec2-bert", {"conv_depthwise_kernel_size": 7, "add_adapter": True}),
]


def mute_attention(recognizer: CtcRecognizer) -> None:
    """Leave only what sees its surroundings: a window then says what the whole does, its edges apart."""
    muted = 0
    with torch.no_grad():
        for name, parameter in recognizer.model.named_parameters():
            if "attention.out_proj" in name or "self_attn.linear_out" in name:
                parameter.zero_()
                muted += 1
    assert muted >= 4


@given(st.integers(1, 12), st.integers(4, 60), st.integers(0, 20), st.integers(1, 400))
def test_windows_cover_the_whole_and_overlap(step: int, steps: int, stride: int, beyond: int) -> None:
    window, stride = steps * step, min(stride, steps * step // 2 - 1)
    length = window + beyond
    spans = overlapping_windows(length, window=window, stride=stride, step=step)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert all(start % step == 0 and end - start == window for start, end in spans[:-1])
    assert window - step < spans[-1][1] - spans[-1][0] <= window
    for (first, end), (following, _) in pairwise(spans):
        assert first < following <= end
        # Less than a step is lost to windows that begin at multiples of it.
        assert end - following >= min(2 * stride, window - step)
    kept = middles(spans)
    assert [kept[0][0], kept[-1][1]] == [0, length] and all(one[1] == other[0] for one, other in pairwise(kept))
    assert all(start <= first <= last <= end for (start, end), (first, last) in zip(spans, kept, strict=True))


@pytest.mark.parametrize(("model_type", "settings"), FAMILIES)
@pytest.mark.parametrize("seconds", [2.01, 3.337, 5.0])
def test_windows_give_what_the_whole_gives(
    make_ctc: Make, noises: Noises, model_type: str, settings: dict, seconds: float
) -> None:
    whole = load_recognizer(make_ctc(model_type, **settings))
    assert isinstance(whole, CtcRecognizer)
    mute_attention(whole)
    windowed = replace(whole, chunk_seconds=2.0, stride_seconds=0.5)
    long, short = noises(seconds, 0.7)
    texts = windowed.transcribe([short, long, short])
    assert texts == whole.transcribe([short, long, short]) and len(texts[1]) > 10
    assert windowed.transcribe([long], batch_seconds=1) == texts[1:2]


@pytest.mark.parametrize(
    ("model_type", "settings"), [(name, given) for name, given in FAMILIES[:6] if "add_adapter" not in given]
)
def test_windows_give_what_transformers_pipeline_gives(make_ctc: Make, noises: Noises, model_type: str, settings: dict) -> None:
    """The pipeline normalises each chunk by itself, and cuts elsewhere at the end: alike where neither makes a difference.

    It knows nothing of an adapter's stride, nor of features that are not samples.
    """
    folder = make_ctc(model_type, **settings)
    peer = pipeline("automatic-speech-recognition", model=str(folder))
    peer.feature_extractor.do_normalize = False
    recognizer = load_recognizer(folder)
    assert isinstance(recognizer, CtcRecognizer)
    recognizer.processor.feature_extractor.do_normalize = False
    mute_attention(recognizer)
    peer.model = recognizer.model
    samples = noises(5.3)[0]
    expected = peer(samples.copy(), chunk_length_s=2.0, stride_length_s=0.48)["text"]
    assert replace(recognizer, chunk_seconds=2.0, stride_seconds=0.48).transcribe([samples]) == [expected] and expected


def test_attention_makes_little_difference_away_from_the_edges() -> None:
    """A trained model, windows of four seconds: nearly all of its frames are those of the whole."""
    whole = load_recognizer(resolve_model("embedded:ctc"))
    assert isinstance(whole, CtcRecognizer)
    time = np.arange(round(13.3 * 16_000))
    samples = (0.3 * np.sin(time**1.2 / 9) * np.sin(time / 3000) ** 2).astype(np.float32)
    with torch.inference_mode():
        expected = np.asarray(whole._paths(whole.features([samples]))[0])
        found = np.asarray(replace(whole, chunk_seconds=4.0, stride_seconds=1.0)._long_path(samples, 60.0))
    assert found.shape == expected.shape and len(set(expected)) > 5
    assert (found == expected).mean() > 0.9
