"""Likelihoods against sums over all alignments, draws against exact probabilities, real positions against transformers."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))

from statistics_reference import ctc_texts

from asrmerge.recognizers.likelihoods import (
    IGNORED,
    ctc_negative_log_likelihoods,
    draw_ctc_labels,
    draw_tokens,
    frame_entropies,
    token_entropies,
    token_negative_log_likelihoods,
)
from asrmerge.recognizers.recognizer import DifferentiableRecognizer, load_recognizer

SEEDS = st.integers(0, 1 << 30)


def padded(rows: list[tuple[int, ...]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True, padding_value=IGNORED
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(2, 6), SEEDS)
def test_tokens_likelihood_is_the_sum_of_their_logarithms(lengths: list[int], vocabulary: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = [tuple(random.integers(0, vocabulary, length)) for length in lengths]
    logits = random.normal(0, 2, (len(rows), max(lengths), vocabulary))
    found = token_negative_log_likelihoods(torch.from_numpy(logits), padded(rows)).numpy()
    for one, row, given_logits in zip(found, rows, logits, strict=True):
        shares = softmax(given_logits)
        assert one == pytest.approx(-sum(np.log(shares[place, token]) for place, token in enumerate(row)), rel=1e-4, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 2), SEEDS)
def test_ctc_likelihood_is_the_sum_over_alignments(frames: list[int], blank: int, seed: int) -> None:
    """Of every text there is: together they have probability one; a text that does not fit has none."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (len(frames), max(frames), 3))
    exact = [ctc_texts(one[:count], blank) for one, count in zip(logits, frames, strict=True)]
    for chosen in itertools.zip_longest(*exact, fillvalue=()):
        found = ctc_negative_log_likelihoods(torch.from_numpy(logits), torch.tensor(frames), padded(list(chosen)), blank)
        for one, text, probabilities in zip(found.tolist(), chosen, exact, strict=True):
            assert one == pytest.approx(-np.log(probabilities[text]), rel=1e-4, abs=1e-4)
    assert all(sum(one.values()) == pytest.approx(1) for one in exact)
    letters = [token for token in range(3) if token != blank]
    too_long = padded([(letters[0],) * (max(frames) + 1)] * len(frames))
    given_logits = torch.from_numpy(logits).requires_grad_()
    assert torch.isposinf(ctc_negative_log_likelihoods(given_logits, torch.tensor(frames), too_long, blank)).all()
    losses = ctc_negative_log_likelihoods(given_logits, torch.tensor(frames), too_long, blank, zero_infinity=True)
    losses.sum().backward()
    assert not losses.any() and given_logits.grad is not None and not given_logits.grad.any()


def test_drawn_texts_are_as_frequent_as_they_are_likely() -> None:
    """A toy of three frames, and one of two in the same batch."""
    random = np.random.default_rng(1)
    logits, count, blank = random.normal(0, 1, (2, 3, 3)), 20_000, 1
    many = torch.from_numpy(logits).repeat_interleave(count, 0)
    lengths = torch.tensor([3, 2]).repeat_interleave(count)
    drawn = draw_ctc_labels(many, lengths, blank, torch.Generator().manual_seed(2)).tolist()
    for start, one, frames in ((0, logits[0], 3), (count, logits[1], 2)):
        exact = ctc_texts(one[:frames], blank)
        found = dict.fromkeys(exact, 0)
        for row in drawn[start : start + count]:
            found[tuple(token for token in row if token != IGNORED)] += 1
        assert len(exact) == (9 if frames == 3 else 5) and min(found.values()) > 5
        expected = [probability * count for probability in exact.values()]
        assert chisquare(list(found.values()), expected).pvalue > 0.01
        others = np.roll(list(found.values()), 1)
        assert chisquare(others, expected).pvalue < 1e-9  # the test can tell


def test_drawn_tokens_are_as_frequent_as_they_are_likely() -> None:
    random = np.random.default_rng(3)
    logits, count = random.normal(0, 1, (1, 2, 4)), 20_000
    labels = padded([(0, 3), (1,)])
    many = torch.from_numpy(logits).expand(2, -1, -1).repeat_interleave(count, 0)
    drawn = draw_tokens(many, labels.repeat_interleave(count, 0), torch.Generator().manual_seed(4))
    assert (drawn[count:, 1] == IGNORED).all() and (drawn[:count] >= 0).all()
    for place in (0, 1):
        found = np.bincount(drawn[:count, place].numpy(), minlength=4)
        assert chisquare(found, softmax(logits)[0, place] * count).pvalue > 0.01


def test_draws_hang_on_the_generator_alone() -> None:
    logits = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    lengths, labels = torch.tensor([9, 4]), padded([(0,) * 9, (0,) * 4])

    def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            draw_ctc_labels(logits, lengths, 0, torch.Generator().manual_seed(seed)),
            draw_tokens(logits, labels, torch.Generator().manual_seed(seed)),
        )

    assert all(torch.equal(*pair) for pair in zip(draw(1), draw(1), strict=True))
    assert not any(torch.equal(*pair) for pair in zip(draw(1), draw(2), strict=True))


def test_frames_that_are_certain_are_drawn_collapsed() -> None:
    path = torch.tensor([[0, 1, 1, 0, 1, 2, 2, 0], [0, 0, 0, 0, 2, 2, 1, 1]])
    logits = torch.nn.functional.one_hot(path, 3).float() * 200
    drawn = draw_ctc_labels(logits, torch.tensor([8, 4]), 0, torch.Generator().manual_seed(0))
    assert drawn.tolist() == [[1, 1, 2], [IGNORED] * 3]
    nothing = draw_ctc_labels(logits[1:], torch.tensor([4]), 0, torch.Generator().manual_seed(0))
    assert nothing.shape == (1, 0)
    assert ctc_negative_log_likelihoods(logits[1:], torch.tensor([4]), nothing, 0).tolist() == pytest.approx([0.0], abs=1e-4)


def test_entropies_by_hand() -> None:
    even, skewed = [0.0, 0.0], [float(np.log(3)), 0.0]
    entropies = [np.log(2), -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))]
    logits = torch.tensor([[even, skewed, even], [skewed, skewed, even]])
    found = token_entropies(logits, padded([(0, 1, 1), (1, 0)])).tolist()
    assert found == pytest.approx([(2 * entropies[0] + entropies[1]) / 3, entropies[1]])
    # Blank is token 1: the even frames' best is the first of equals, which is not.
    assert frame_entropies(logits, torch.tensor([3, 1]), 1).tolist() == pytest.approx(
        [sum(entropies[:1] * 2 + entropies[1:]) / 3, entropies[1]]
    )
    # Blank is token 0: all frames are.
    assert frame_entropies(logits, torch.tensor([3, 1]), 0).tolist() == [0.0, 0.0]


def load(name: str, make_ctc: Callable[..., Path], make_whisper: Callable[..., Path]) -> Any:
    makers = {
        "whisper": lambda: make_whisper(multilingual=True),
        "masked": make_ctc,
        "unmasked": lambda: make_ctc(mask=False, feat_extract_norm="group"),
    }
    return load_recognizer(makers[name]())


@pytest.mark.parametrize("name", ["whisper", "masked", "unmasked"])
def test_the_training_loss_is_the_mean_likelihood_of_a_token(
    name: str, make_ctc: Callable[..., Path], make_whisper: Callable[..., Path], noises: Callable[..., list[np.ndarray]]
) -> None:
    """As transformers computes it for one utterance, and for a batch as the mean of that."""
    recognizer = load(name, make_ctc, make_whisper)
    assert isinstance(recognizer, DifferentiableRecognizer)
    audio, texts = noises(0.6, 0.9, 0.7), ["a b", "hello", "cab"]
    batch = {**recognizer.features(audio), "labels": recognizer.labels(texts)}
    losses = []
    for row in range(3):
        one = {key: value[row : row + 1] for key, value in batch.items()}
        labels = one["labels"][:, one["labels"][0] >= 0]
        model = recognizer.model
        model.config.ctc_loss_reduction = "mean"
        with torch.no_grad():
            losses.append(float(model(**{**one, "labels": labels}).loss))
    with torch.no_grad():
        assert float(recognizer.loss(batch)) == pytest.approx(np.mean(losses), rel=1e-5)
        logits = recognizer.logits(batch)
        likelihoods = recognizer.negative_log_likelihoods(logits, batch, batch["labels"])
    counts = (batch["labels"] >= 0).sum(1)
    assert logits.dtype == torch.float32 and likelihoods.shape == (3,)
    if name == "whisper":
        given_tokens = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none")[:, :3].sum(1)
        assert (likelihoods + given_tokens).tolist() == pytest.approx((torch.tensor(losses) * counts).tolist(), rel=1e-4)
        assert recognizer.prompt[1:] == tuple(batch["labels"][0, :3].tolist())
    else:
        assert likelihoods.tolist() == pytest.approx((torch.tensor(losses) * counts).tolist(), rel=1e-4)


def test_what_whisper_is_given_is_not_drawn(make_whisper: Callable[..., Path], noises: Callable[..., list[np.ndarray]]) -> None:
    recognizer: Any = load_recognizer(make_whisper(multilingual=True))
    labels = recognizer.labels(["abc", "hello you"])
    batch = {**recognizer.features(noises(0.6, 0.9)), "labels": labels}
    with torch.no_grad():
        logits = recognizer.logits(batch)
        drawn = recognizer.draw_labels(logits, batch, torch.Generator().manual_seed(0))
        entropies = recognizer.entropies(logits, batch)
    assert torch.equal(drawn[:, :3], labels[:, :3]) and torch.equal(drawn == IGNORED, labels == IGNORED)
    assert not torch.equal(drawn, labels)
    shares = softmax(logits.double().numpy())
    by_hand = -(shares * np.log(shares)).sum(-1)
    expected = [row[3 : int(count)].mean() for row, count in zip(by_hand, (labels >= 0).sum(1), strict=True)]
    assert entropies.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mask", [True, False])
def test_real_positions_of_wav2vec2_are_those_that_an_utterance_has_alone(
    mask: bool, make_ctc: Callable[..., Path], noises: Callable[..., list[np.ndarray]]
) -> None:
    """Of every convolution and of the encoder; without a mask, padding is part of the utterance. 0.05 s are padded to 0.1 s."""
    given_settings = {"conv_kernel": (10, 3, 2), "conv_stride": (5, 4, 16)}
    recognizer: Any = load_recognizer(make_ctc(mask=mask, **given_settings))
    model = recognizer.model
    audio = noises(0.613, 0.05, 0.5001)
    batch = {**recognizer.features(audio), "labels": recognizer.labels(["a", "b", "c"])}
    modules = {
        f"wav2vec2.feature_extractor.conv_layers.{number}.conv": model.wav2vec2.feature_extractor.conv_layers[number].conv
        for number in range(3)
    } | {"lm_head": model.lm_head, "wav2vec2.encoder.layers.1": model.wav2vec2.encoder.layers[1]}
    seen: dict[str, int] = {}

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, _: object, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            seen[name] = value.shape[2 if isinstance(module, torch.nn.Conv1d) else 1]

        return hook

    for name, module in modules.items():
        module.register_forward_hook(hook_of(name))
    samples = [len(one) for one in audio]
    for row in range(3):
        longest = max(1600, samples[row]) if mask else max(samples)
        alone = np.zeros(longest, dtype=np.float32)
        alone[: samples[row]] = audio[row]
        with torch.no_grad():
            model(**recognizer.features([alone]))
        for name in modules:
            assert int(recognizer.real_positions(name, batch, samples)[row]) == seen[name], (name, row)
            assert not recognizer.hears_padding(name)
        lengths = model._get_feat_extract_output_lengths(torch.tensor(longest))
        assert seen["lm_head"] == int(lengths)


def test_real_positions_of_whisper(make_whisper: Callable[..., Path], noises: Callable[..., list[np.ndarray]]) -> None:
    recognizer: Any = load_recognizer(make_whisper(multilingual=True))
    audio = noises(0.6, 0.601, 1.0, 0.001)
    batch = {**recognizer.features(audio), "labels": recognizer.labels(["a", "b", "hello", ""])}
    samples = [len(one) for one in audio]
    expected = {
        "model.encoder.conv1": [60, 61, 100, 1],
        "model.encoder.conv2": [30, 31, 50, 1],
        "model.encoder.layers.1.fc1": [30, 31, 50, 1],
        "model.decoder.layers.0.encoder_attn.k_proj": [30, 31, 50, 1],
        "model.decoder.layers.1.encoder_attn.v_proj": [30, 31, 50, 1],
        "model.decoder.layers.1.encoder_attn.q_proj": [6, 6, 10, 4],  # prompt, space, text, end; the empty text has no space
        "model.decoder.layers.0.fc2": [6, 6, 10, 4],
    }
    for module, counts in expected.items():
        assert recognizer.real_positions(module, batch, samples).tolist() == counts, module
        assert recognizer.hears_padding(module) == (counts[-1] == 1)
