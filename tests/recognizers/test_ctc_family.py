from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCTC, AutoProcessor, pipeline

from asrmerge.recognizers import CachingRecognizer, load_recognizer
from asrmerge.recognizers.families.ctc import model_types

Make = Callable[..., Path]
Noises = Callable[..., list[np.ndarray]]
VARIANTS = [
    *((model_type, {}, True) for model_type in model_types),
    ("wav2vec2", {"do_stable_layer_norm": True}, True),
    ("wav2vec2", {"feat_extract_norm": "group"}, False),
    ("wav2vec2", {"feat_extract_norm": "group"}, True),
    ("wav2vec2", {"add_adapter": True}, True),
    ("wav2vec2-bert", {"add_adapter": True}, True),
    ("hubert", {"conv_pos_batch_norm": True}, True),
    ("wavlm", {"do_stable_layer_norm": True}, True),
]


@pytest.mark.parametrize(("model_type", "settings", "mask"), VARIANTS)
def test_transcripts_do_not_depend_on_the_batch(
    make_ctc: Make, noises: Noises, model_type: str, settings: dict, mask: bool
) -> None:
    recognizer = load_recognizer(make_ctc(model_type, mask=mask, **settings))
    audio = noises(0.6, 1.3, 0.31, 0.6, 0.95)
    together = recognizer.transcribe(audio)
    assert together == [recognizer.transcribe([samples])[0] for samples in audio]
    assert len(set(together)) > 2 and max(map(len, together)) > 3


@pytest.mark.parametrize(("model_type", "settings", "mask"), VARIANTS)
def test_padding_is_neutral_where_it_says_so(make_ctc: Make, noises: Noises, model_type: str, settings: dict, mask: bool) -> None:
    recognizer = load_recognizer(make_ctc(model_type, mask=mask, **settings))
    short, long = noises(0.5, 1.2)
    with torch.inference_mode():
        alone = recognizer.model(**recognizer.features([short])).logits[0]
        frames = len(alone)
        padded = recognizer.model(**recognizer.features([short, long])).logits[0, :frames]
    if model_type == "wav2vec2-bert":
        # Its frames come in pairs, of which an utterance's last may be half padding.
        alone, padded = alone[:-1], padded[:-1]
    assert torch.allclose(alone, padded, atol=1e-4) == recognizer.padding_is_neutral()


@pytest.mark.parametrize("model_type", model_types)
def test_loss_is_that_of_transformers(make_ctc: Make, noises: Noises, model_type: str) -> None:
    recognizer = load_recognizer(make_ctc(model_type, ctc_loss_reduction="mean", ctc_zero_infinity=True))
    batch = {**recognizer.features(noises(1.0)), "labels": recognizer.labels(["it's a test"])}
    with torch.no_grad():
        expected = recognizer.model(**batch).loss
        assert expected > 0
        torch.testing.assert_close(recognizer.loss(batch), expected)


def test_loss_is_the_mean_over_utterances(make_ctc: Make, noises: Noises) -> None:
    recognizer = load_recognizer(make_ctc())
    audio, texts = noises(1.5, 0.8), ["one two three", "ab"]
    with torch.no_grad():
        both = recognizer.loss({**recognizer.features(audio), "labels": recognizer.labels(texts)})
        alone = [
            recognizer.loss({**recognizer.features([samples]), "labels": recognizer.labels([text])})
            for samples, text in zip(audio, texts, strict=True)
        ]
    torch.testing.assert_close(both, torch.stack(alone).mean())


def test_text_too_long_for_its_audio_leaves_the_gradient_finite(make_ctc: Make, noises: Noises) -> None:
    recognizer = load_recognizer(make_ctc())
    loss = recognizer.loss({**recognizer.features(noises(0.1)), "labels": recognizer.labels(["much more than that"])})
    loss.backward()
    assert loss == 0
    assert all(bool(p.grad.isfinite().all()) for p in recognizer.model.parameters() if p.grad is not None)


def test_labels_fit_the_vocabulary(make_ctc: Make) -> None:
    lower, upper = load_recognizer(make_ctc()), load_recognizer(make_ctc(upper=True))
    expected = lower.labels(["we saw"])
    for text in ("We  saw", " we - saw.", "Wé wé".replace("Wé wé", "we sáaw")):
        assert lower.labels([text]).tolist() == expected.tolist()
        assert upper.labels([text]).tolist() == expected.tolist()
    padded = lower.labels(["we saw", "a", ""])
    assert padded.shape == (3, 6)
    assert padded[1, 1:].unique().tolist() == [-100] == padded[2].unique().tolist()
    assert lower.processor.tokenizer.decode(expected[0], group_tokens=False) == "we saw"
    assert lower.processor.tokenizer.decode(lower.labels(["all tools"])[0], group_tokens=False) == "all tools"


@pytest.mark.parametrize("model_type", model_types)
def test_saved_checkpoint_is_plain_transformers(make_ctc: Make, noises: Noises, tmp_path: Path, model_type: str) -> None:
    recognizer = load_recognizer(make_ctc(model_type))
    audio = noises(0.9)[0]
    expected = recognizer.transcribe([audio])[0]
    recognizer.save(tmp_path / "saved")
    model, processor = AutoModelForCTC.from_pretrained(tmp_path / "saved"), AutoProcessor.from_pretrained(tmp_path / "saved")
    inputs = processor(audio, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        assert processor.batch_decode(model(**inputs).logits.argmax(-1))[0] == expected
    assert pipeline("automatic-speech-recognition", model=str(tmp_path / "saved"))(audio.copy())["text"] == expected
    recognizer.save(tmp_path / "saved", dtype=torch.float16)
    assert AutoModelForCTC.from_pretrained(tmp_path / "saved", dtype="auto").dtype == torch.float16
    assert recognizer.model.dtype == torch.float32


@pytest.mark.parametrize(("model_type", "settings", "mask"), VARIANTS)
def test_groups_cover_each_parameter_once(make_ctc: Make, model_type: str, settings: dict, mask: bool) -> None:
    recognizer = load_recognizer(make_ctc(model_type, mask=mask, **settings))
    groups = recognizer.groups()
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in recognizer.model.named_parameters())
    assert {"frontend", "encoder.0", "encoder.1", "head", "norms"} <= set(groups)
    assert groups["head"] == ["lm_head.weight", "lm_head.bias"]
    assert any("feature_projection.projection" in name for name in groups["frontend"])
    assert not any(".layers.1." in name for name in groups["encoder.0"])
    assert all("norm" in name for name in groups["norms"])
    assert ("positional" in groups) == (model_type != "wav2vec2-bert")
    frontend = recognizer.frontend_parameters()
    assert set(frontend) < set(groups["frontend"])
    assert bool(frontend) == (model_type != "wav2vec2-bert")
    assert not any("projection" in name for name in frontend)


def test_wavlm_shared_position_table_is_positional(make_ctc: Make) -> None:
    groups = load_recognizer(make_ctc("wavlm")).groups()
    assert any(name.endswith("rel_attn_embed.weight") for name in groups["positional"])


def test_bfloat16_computes_with_float32_parameters(make_ctc: Make, noises: Noises) -> None:
    folder = make_ctc()
    exact, fast = load_recognizer(folder), load_recognizer(folder, precision="bfloat16")
    batch = {**exact.features(noises(1.0)), "labels": exact.labels(["a test"])}
    loss = fast.loss(batch)
    assert loss.dtype == fast.model.dtype == torch.float32
    torch.testing.assert_close(loss, exact.loss(batch), rtol=0.1, atol=0.1)


def test_transcribe_restores_training_mode_and_takes_anything_short(make_ctc: Make) -> None:
    recognizer = load_recognizer(make_ctc())
    assert not recognizer.model.training
    recognizer.model.train()
    assert len(recognizer.transcribe([np.zeros(0, np.float32), np.zeros(3, np.float32)])) == 2
    assert recognizer.transcribe([]) == []
    assert recognizer.model.training
    assert recognizer.window_seconds is None and not isinstance(recognizer, CachingRecognizer)
