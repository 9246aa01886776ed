"""Output factors and activations against loops over one utterance's positions at a time; the sums that they are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import statistics_reference as reference
import torch
from families import FAMILIES, SECONDS, TEXTS, Family, assert_close, make_family
from hypothesis import given, settings
from hypothesis import strategies as st
from test_grams import HOP

from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.merging.artefact import Header, read_header
from asrmerge.statistics.sums import add_gram, add_product, effective_rank, pick, whole


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, make_ctc: Callable[..., Path], make_whisper: Callable[..., Path]) -> Family:
    return make_family(request.param, make_ctc, make_whisper)


def header_of(path: Path) -> Header:
    header = read_header(SafetensorsReader(path))
    assert header is not None
    return header


def positions(family: Family, name: str, count: int, seconds: float, padding_every: int) -> list[int]:
    """The positions of one utterance that count."""
    hears = name.startswith("model.encoder") or name.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj"))
    if family.recognizer.family != "whisper" or not hears:
        return list(range(count))
    frames = math.ceil(round(16_000 * seconds) / HOP)
    return reference.counted(count, frames if name == "model.encoder.conv1" else math.ceil(frames / 2), padding_every)


@pytest.mark.parametrize("variant", ["empirical", "sampled"])
def test_factors_are_the_mean_of_products_of_output_gradients(
    variant: str, family: Family, speak: Callable[..., list], tmp_path: Path
) -> None:
    utterances = speak(SECONDS[:3], TEXTS[:3])
    draws = 2 if variant == "sampled" else 1
    found = family.collect(
        utterances, tmp_path / "out", kinds=("factors",), fisher=variant, draws=draws, padding_every=3, seed=4
    )["factors"]
    rows: dict[str, list[np.ndarray]] = {}
    for utterance in utterances:
        inputs, labels = family.inputs(utterance)
        for drawn in family.drawn(utterance, 4, draws) if variant == "sampled" else [labels]:
            gradients = reference.output_gradients(
                family.model,
                list(found),
                lambda model, given=(inputs, drawn, labels): family.loss(model, *given),
            )
            for name, value in gradients.items():
                rows.setdefault(name, []).append(value[positions(family, name, len(value), utterance.duration, 3)])
    joined = {name: np.concatenate(parts) for name, parts in rows.items()}
    maps = {
        name
        for name, module in family.model.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d)) and "proj_out" not in name and "pos_conv" not in name
    }
    assert found.keys() == joined.keys() == maps
    assert_close(found, {name: reference.mean_product(value) for name, value in joined.items()})
    header = header_of(tmp_path / "out" / "factors.safetensors")
    assert header.positions == {name: len(value) for name, value in joined.items()}
    assert (header.variant, header.draws, header.seed) == ((variant, 2, 4) if variant == "sampled" else (variant, None, None))
    assert header.padding_weight == (pytest.approx(1 / 3) if family.recognizer.family == "whisper" else None)
    for value in found.values():
        assert np.array_equal(value, value.T)


def test_activations_are_means_variances_and_effective_ranks(family: Family, speak: Callable[..., list], tmp_path: Path) -> None:
    utterances = speak(SECONDS, TEXTS)
    found = family.collect(utterances, tmp_path / "out", kinds=("activations",), padding_every=3, batch_seconds=9)["activations"]
    rows: dict[str, list[np.ndarray]] = {}
    for utterance in utterances:
        calls = reference.calls(family.model, lambda model, one=utterance: family.run(model, one))
        for name, (_, outputs) in calls.items():
            rows.setdefault(name, []).append(outputs[positions(family, name, len(outputs), utterance.duration, 3)])
    rows.pop("proj_out", None)
    rows.pop("wav2vec2.encoder.pos_conv_embed.conv", None)
    expected: dict[str, np.ndarray] = {}
    for name, parts in rows.items():
        joined = np.concatenate(parts)
        expected |= {f"{name}.mean": joined.mean(0), f"{name}.variance": joined.var(0)}
        if reference.is_layer(name):
            expected[f"{name}.effective_rank"] = np.array(reference.effective_rank(joined))
    assert sum(name.endswith("effective_rank") for name in expected) == (4 if family.recognizer.family == "whisper" else 2)
    assert_close(found, expected)
    header = header_of(tmp_path / "out" / "activations.safetensors")
    assert header.positions == {name: sum(map(len, parts)) for name, parts in rows.items()} and not header.lacking


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.lists(st.integers(0, 9), min_size=1, max_size=3), st.integers(0, 1 << 30))
def test_sums_of_products_are_whole_and_symmetric(width: int, counts: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(count, width, generator=generator) for count in counts]
    product, gram = torch.zeros(width, width), torch.zeros(width + 1, width + 1)
    for rows in parts:
        add_product(product, rows)
        add_gram(gram, rows)
    joined = torch.cat(parts).double().numpy()
    expected = joined.T @ joined
    scale = max(1e-9, float(np.abs(expected).max()))
    assert np.abs(whole(product).double().numpy() - expected).max() <= 1e-5 * scale
    total = whole(gram).double().numpy()
    assert np.array_equal(total, total.T) and total[-1, -1] == len(joined)
    assert np.abs(total[:-1, :-1] - expected).max() <= 1e-5 * scale
    assert np.abs(total[-1, :-1] - joined.sum(0)).max() <= 1e-5 * max(1e-9, float(np.abs(joined).sum()))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.booleans(), st.integers(0, 1 << 30))
def test_picked_positions_are_in_order(batch: int, count: int, contiguous: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, count, 2, 3, generator=generator)
    values = values if contiguous else values.transpose(2, 3).contiguous().transpose(2, 3)
    mask = torch.rand(batch, count, generator=generator) < 0.6
    found = pick(values, mask.flatten().nonzero()[:, 0])
    expected = [values[row, place].reshape(-1) for row in range(batch) for place in range(count) if mask[row, place]]
    assert found.shape == (len(expected), 6) and all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_effective_ranks_of_known_spectra() -> None:
    for shares, expected in (([1, 1, 1], 3), ([1, 0, 0], 1), ([0, 0, 0], 0), ([3, 1, 0], 4 / 3**0.75)):
        mean = torch.tensor([2.0, -1.0, 5.0], dtype=torch.float64)
        gram = torch.zeros(4, 4, dtype=torch.float64)
        gram[:3, :3] = torch.diag(torch.tensor(shares, dtype=torch.float64)) + torch.outer(mean, mean)
        gram[:3, 3] = gram[3, :3] = mean
        gram[3, 3] = 1
        assert effective_rank(gram) == pytest.approx(expected, abs=1e-9)
