"""The diagonal of the Fisher information against gradients of one utterance at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import statistics_reference as reference
import torch
from families import FAMILIES, SECONDS, TEXTS, Family, assert_close, make_family

from asrmerge.statistics.collecting import collect_statistics
from asrmerge.statistics.settings import StatisticsSettings
from asrmerge.statistics.subject import load_subject

POSITIONAL = "wav2vec2.encoder.pos_conv_embed.conv.weight"


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, make_ctc: Callable[..., Path], make_whisper: Callable[..., Path]) -> Family:
    return make_family(request.param, make_ctc, make_whisper)


@pytest.mark.parametrize("variant", ["empirical", "sampled"])
def test_it_is_the_mean_of_squares_of_one_utterances_gradients(
    variant: str, family: Family, speak: Callable[..., list], tmp_path: Path
) -> None:
    utterances = speak(SECONDS[:3], TEXTS[:3])
    draws = 2 if variant == "sampled" else 1
    found = family.collect(utterances, tmp_path / "out", kinds=("fisher",), fisher=variant, draws=draws, seed=3)["fisher"]
    parts = []
    for utterance in utterances:
        inputs, labels = family.inputs(utterance)
        parts.append((inputs, family.drawn(utterance, 3, draws) if variant == "sampled" else [labels], labels))
    expected = reference.fisher(family.model, parts, family.loss)
    assert_close(found, expected)
    unused = {name for name, value in expected.items() if not value.any()}
    assert unused <= {"wav2vec2.masked_spec_embed", "model.decoder.embed_positions.weight"}
    if "model.decoder.embed_tokens.weight" in expected:
        assert "proj_out.weight" not in expected  # the same parameter, counted once: it is the sum of both its gradients
    else:
        assert found[POSITIONAL].shape == (32, 16, 8) and found[POSITIONAL].all()


def test_a_batch_is_not_squared_as_one(make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path) -> None:
    """What a framework would give for a batch: the square of summed gradients."""
    family = make_family("whisper", None, make_whisper)  # type: ignore[arg-type]
    utterances = speak(SECONDS[:2], TEXTS[:2])
    found = family.collect(utterances, tmp_path / "out", kinds=("fisher",), fisher="empirical")["fisher"]
    own = reference.plain_copy(family.model)
    sum((family.loss(own, *family.inputs(one), family.inputs(one)[1]) for one in utterances), torch.zeros(())).backward()
    name = "model.decoder.layer_norm.weight"
    batch = (own.get_parameter(name).grad / 2).numpy() ** 2
    assert float(np.abs(found[name] - batch).max()) > 0.1 * float(batch.max())


def test_sampled_labels_give_the_exact_information_on_average(
    make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    """Of what is added to the states that the output projection W sees, it is Σ over tokens of the variance of W's rows."""
    family = make_family("whisper", None, make_whisper)  # type: ignore[arg-type]
    (utterance,) = speak(SECONDS[:1], ["dad"])
    name, draws = "model.decoder.layer_norm.bias", 300
    found = family.collect([utterance], tmp_path / "out", kinds=("fisher",), draws=draws)["fisher"][name]
    inputs, labels = family.inputs(utterance)
    with torch.no_grad():
        logits = family.recognizer.logits({**inputs, "labels": labels})[0].double().numpy()
    projection = family.recognizer.model.proj_out.weight.detach().double().numpy()
    expected = np.zeros(projection.shape[1])
    for row in logits[3:]:  # after language, task, no timestamps
        shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        expected += shares @ projection**2 - (shares @ projection) ** 2
    # Of a mean of squares of normal deviates, the standard error is √(2/draws) of it; here tails are longer.
    assert np.abs(found / expected - 1).max() < 6 * np.sqrt(2 / draws)
    assert found.mean() == pytest.approx(expected.mean(), rel=0.05)
    empirical = family.collect([utterance], tmp_path / "empirical", kinds=("fisher",), fisher="empirical")["fisher"][name]
    assert empirical.mean() != pytest.approx(expected.mean(), rel=0.5)


def test_more_draws_and_other_seeds_are_other_draws(
    make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    family = make_family("layer", make_ctc, None)  # type: ignore[arg-type]
    utterances = speak(SECONDS[:2], TEXTS[:2])
    settings = {"one": {"seed": 1}, "again": {"seed": 1}, "other": {"seed": 2}, "more": {"seed": 1, "draws": 2}}
    found = {
        name: family.collect(utterances, tmp_path / name, kinds=("fisher",), **given)["fisher"]["lm_head.bias"]
        for name, given in settings.items()
    }
    assert np.array_equal(found["one"], found["again"])
    assert not np.allclose(found["one"], found["other"]) and not np.allclose(found["one"], found["more"])


def test_the_order_of_utterances_does_not_change_what_is_drawn(
    make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    family = make_family("whisper", None, make_whisper)  # type: ignore[arg-type]
    utterances = speak(SECONDS[:3], TEXTS[:3])
    one = family.collect(utterances, tmp_path / "one", kinds=("fisher",))["fisher"]
    other = family.collect(utterances[::-1], tmp_path / "other", kinds=("fisher",))["fisher"]
    assert_close(one, other, 1e-4)


def test_the_header_says_how(make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path) -> None:
    folder = make_ctc()
    subject = load_subject(str(folder))
    utterances = speak(SECONDS[:2], TEXTS[:2])
    for variant, expected in (("sampled", ("sampled", 5, 3)), ("empirical", ("empirical", None, None))):
        settings = StatisticsSettings(kinds=("fisher",), fisher=variant, seed=5, draws=3)  # type: ignore[arg-type]
        header = collect_statistics(subject, utterances, tmp_path / variant, settings)["fisher"]
        assert (header.variant, header.seed, header.draws) == expected
        assert (header.model, header.model_sha256, header.utterances) == (str(folder), subject.hash, 2)
        assert header.seconds == pytest.approx(sum(SECONDS[:2]))
        assert header.padding_weight is None and not header.positions and not header.shares
        assert header.lacking == {"wav2vec2.masked_spec_embed": "no loss hangs on it"}
