from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoProcessor, WhisperForConditionalGeneration, pipeline

from asrmerge.errors import AudioError, CheckpointError, ConfigError, ManifestError
from asrmerge.recognizers import CachingRecognizer, load_recognizer
from asrmerge.recognizers.greedy import TokenRules, greedy_tokens

Make = Callable[..., Path]
Noises = Callable[..., list[np.ndarray]]
SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("multilingual", [False, True])
def test_greedy_loop_is_generate(make_whisper: Make, noises: Noises, seed: int, multilingual: bool) -> None:
    recognizer = load_recognizer(make_whisper(seed=seed, multilingual=multilingual), language="german")
    model, bound = recognizer.model, 24
    features = recognizer.features(noises(1.0, 0.5, 0.8, 0.2, seed=seed))["input_features"]
    rules = TokenRules.from_generation_config(model.generation_config)
    # An end token that random models do choose, at different steps: rows have to leave the batch one by one.
    with torch.no_grad():
        states = model.model.encoder(features).last_hidden_state
        free = greedy_tokens(model, states, prompt=recognizer.prompt, limits=[bound] * 4, rules=rules)
        ends = sorted({row[min(step, len(row) - 1)] for row, step in zip(free, (3, 7, 12, 16), strict=True)})
        model.generation_config.eos_token_id = ends
        rules = TokenRules.from_generation_config(model.generation_config)
        own = greedy_tokens(model, states, prompt=recognizer.prompt, limits=[bound] * 4, rules=rules)
        language = {"language": "de", "task": "transcribe"} if multilingual else {}
        expected = model.generate(features, max_new_tokens=bound, **language).tolist()
    assert all(len(row) < bound for row in own)
    for row, reference in zip(own, expected, strict=True):
        # generate gives back neither prompt nor, once it is alone, the end token.
        reference = reference[len(recognizer.prompt) :] if reference[0] == recognizer.prompt[0] else reference
        stop = next((index for index, token in enumerate(reference) if token in ends), len(reference))
        assert (row[:-1] if row[-1] in ends else row) == reference[:stop]


def test_greedy_loop_respects_limits_and_rules(make_whisper: Make, noises: Noises) -> None:
    recognizer = load_recognizer(make_whisper())
    states = recognizer.encode(noises(1.0, 0.9, 0.8))
    rules = TokenRules(end=(256,), begin_suppress=(5,))
    rows = greedy_tokens(recognizer.model, states, prompt=recognizer.prompt, limits=[0, 3, 5], rules=rules)
    assert [len(row) for row in rows] == [0, 3, 5]
    barred = TokenRules(end=(256,), suppress=tuple({token for row in rows for token in row}), begin_suppress=(5,))
    others = greedy_tokens(recognizer.model, states, prompt=recognizer.prompt, limits=[5, 5, 5], rules=barred)
    assert not set(barred.suppress) & {token for row in others for token in row}
    first = rows[1][0]
    begin = TokenRules(end=(256,), begin_suppress=(first,))
    assert greedy_tokens(recognizer.model, states[1:2], prompt=recognizer.prompt, limits=[1], rules=begin)[0][0] != first


def test_transcripts_do_not_depend_on_the_batch(make_whisper: Make, noises: Noises) -> None:
    recognizer = load_recognizer(make_whisper())
    audio = noises(0.6, 1.0, 0.31, 0.6, 0.95, 0.1)
    together = recognizer.transcribe(audio)
    assert together == [recognizer.transcribe([samples])[0] for samples in audio]
    assert together == recognizer.transcribe(audio, batch_seconds=2)
    assert len(set(together)) > 2


def test_encoder_states_stand_in_for_the_encoder(make_whisper: Make, noises: Noises) -> None:
    recognizer = load_recognizer(make_whisper())
    assert isinstance(recognizer, CachingRecognizer)
    audio, labels = noises(0.6, 1.0, 0.31), recognizer.labels(["one", "two three", "four"])
    states = recognizer.encode(audio, batch_seconds=1)
    assert states.shape == (3, 50, 32)
    expected = recognizer.transcribe(audio)
    expected_loss = recognizer.loss({**recognizer.features(audio), "labels": labels})
    with torch.no_grad():
        recognizer.model.model.encoder.conv1.weight.zero_()
    assert recognizer.transcribe(audio, encoder_states=states) == expected
    loss = recognizer.loss({"labels": labels}, encoder_states=states)
    torch.testing.assert_close(loss, expected_loss)
    loss.backward()
    assert recognizer.model.model.encoder.layers[0].fc1.weight.grad is None
    assert recognizer.model.model.decoder.layers[0].fc1.weight.grad is not None
    with pytest.raises(AudioError, match="rows"):
        recognizer.transcribe(audio[:2], encoder_states=states)


def test_loss_is_that_of_transformers(make_whisper: Make, noises: Noises) -> None:
    recognizer = load_recognizer(make_whisper())
    batch = {**recognizer.features(noises(0.7)), "labels": recognizer.labels(["a test"])}
    with torch.no_grad():
        torch.testing.assert_close(recognizer.loss(batch), recognizer.model(**batch).loss)


def test_loss_is_the_mean_over_utterances(make_whisper: Make, noises: Noises) -> None:
    recognizer = load_recognizer(make_whisper())
    audio, texts = noises(1.0, 0.8), ["one two three", "ab"]
    with torch.no_grad():
        both = recognizer.loss({**recognizer.features(audio), "labels": recognizer.labels(texts)})
        alone = [
            recognizer.loss({**recognizer.features([samples]), "labels": recognizer.labels([text])})
            for samples, text in zip(audio, texts, strict=True)
        ]
    torch.testing.assert_close(both, torch.stack(alone).mean())


def test_labels_carry_language_only_where_multilingual(make_whisper: Make, caplog: pytest.LogCaptureFixture) -> None:
    english = load_recognizer(make_whisper())
    start, german_token, transcribe, marker, end = 257, 259, 261, 264, 256
    text = english.processor.tokenizer(" ab", add_special_tokens=False).input_ids
    assert english.labels(["  ab ", ""]).tolist() == [[marker, *text, end], [marker, end, *[-100] * len(text)]]
    assert load_recognizer(make_whisper(seed=1), language="de").prompt == english.prompt == (start, marker)
    folder = make_whisper(multilingual=True)
    german = load_recognizer(folder, language="German")
    assert german.prompt == (start, german_token, transcribe, marker)
    assert german.labels(["a"])[0, :3].tolist() == [german_token, transcribe, marker]
    with caplog.at_level(logging.WARNING):
        assert load_recognizer(folder).prompt == (start, 258, transcribe, marker)
    assert "English is assumed" in caplog.text
    with pytest.raises(ConfigError, match="no language 'french'"):
        load_recognizer(folder, language="french")
    with pytest.raises(ManifestError, match="40 positions"):
        english.labels(["a" * 50])


@pytest.mark.parametrize("timestamps", [False, True])
def test_audio_beyond_the_window(make_whisper: Make, noises: Noises, caplog: pytest.LogCaptureFixture, timestamps: bool) -> None:
    recognizer = load_recognizer(make_whisper(timestamps=timestamps, seed=2))
    assert recognizer.has_timestamps == timestamps and recognizer.window_seconds == 1.0
    short, long = noises(0.5, 2.4)
    with caplog.at_level(logging.WARNING):
        texts = recognizer.transcribe([long, short, long[:16_001]])
    assert texts[1] == recognizer.transcribe([short])[0]
    assert len(texts) == 3 and len(texts[0]) > 0
    assert [record.message for record in caplog.records if "longer" in record.message] == [
        "2 of 3 utterances are longer than the window of 1 s: transcribed "
        + ("in one long-form pass each." if timestamps else "cut at pauses.")
    ]
    for refused in (lambda: recognizer.features([long]), lambda: recognizer.encode([short, long])):
        with pytest.raises(AudioError, match="window"):
            refused()


def test_tokens_are_bounded_by_the_duration(make_whisper: Make) -> None:
    recognizer = load_recognizer(make_whisper())
    bounds = [recognizer.token_bound(samples) for samples in (0, 8_000, 16_000, 10**7)]
    assert bounds == [8, 23, 38, 38]
    assert recognizer.transcribe([]) == []
    assert len(recognizer.transcribe([np.zeros(0, np.float32)])) == 1


def test_saved_checkpoint_is_plain_transformers(make_whisper: Make, noises: Noises, tmp_path: Path) -> None:
    recognizer = load_recognizer(make_whisper(max_target_positions=20))
    audio = noises(1.0)[0]
    expected = recognizer.transcribe([audio])[0]
    recognizer.save(tmp_path / "saved")
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "saved")
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    inputs = processor(audio, sampling_rate=16_000, return_tensors="pt")
    tokens = model.generate(inputs.input_features, max_new_tokens=18)
    assert processor.batch_decode(tokens, skip_special_tokens=True)[0].strip() == expected
    # The pipeline searches with five beams unless told otherwise.
    piped = pipeline("automatic-speech-recognition", model=str(tmp_path / "saved"))(
        audio.copy(), generate_kwargs={"max_new_tokens": 18, "num_beams": 1}
    )
    assert piped["text"].strip() == expected
    assert load_recognizer(tmp_path / "saved").transcribe([audio]) == [expected]
    recognizer.save(tmp_path / "saved", dtype=torch.float16)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == "float16"
    half = load_recognizer(tmp_path / "saved")
    assert half.model.dtype == torch.float32 and half.model.generation_config.begin_suppress_tokens == [220, 256]
    assert half.model.proj_out.weight is half.model.model.decoder.embed_tokens.weight


@pytest.mark.parametrize("tied", [True, False])
def test_groups_cover_each_parameter_once(make_whisper: Make, tied: bool) -> None:
    recognizer = load_recognizer(make_whisper(tie_word_embeddings=tied))
    groups = recognizer.groups()
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in recognizer.model.named_parameters())
    layers = [f"decoder.{number}.{part}" for number in (0, 1) for part in ("self", "cross", "ffn")]
    assert set(groups) == {"frontend", "encoder.0", "encoder.1", *layers, "decoder", "embedding", "norms"}
    assert recognizer.frontend_parameters() == groups["frontend"]
    assert all(name.startswith("model.encoder.") for name in groups["frontend"])
    assert len(groups["frontend"]) == 5
    assert all(".self_attn." in name for name in groups["decoder.0.self"])
    assert all(".encoder_attn." in name for name in groups["decoder.1.cross"])
    assert [name.split(".")[-2] for name in groups["decoder.1.ffn"]] == ["fc1", "fc1", "fc2", "fc2"]
    assert groups["decoder"] == ["model.decoder.embed_positions.weight"]
    assert len(groups["embedding"]) == (1 if tied else 2)


def test_feature_extractor_of_another_window_is_refused(make_whisper: Make) -> None:
    with pytest.raises(CheckpointError, match="100 frames of 16 bins, but its model takes 80 of 16"):
        load_recognizer(make_whisper(max_source_positions=40))


def test_bfloat16_computes_with_float32_parameters(make_whisper: Make, noises: Noises) -> None:
    folder = make_whisper()
    exact, fast = load_recognizer(folder), load_recognizer(folder, precision="bfloat16")
    batch = {**exact.features(noises(1.0)), "labels": exact.labels(["a test"])}
    torch.testing.assert_close(fast.loss(batch), exact.loss(batch), rtol=0.1, atol=0.1)
    assert fast.encode(noises(1.0)).dtype == torch.float32
    assert len(fast.transcribe(noises(1.0))) == 1


@pytest.mark.skipif(not (SHARED / "whisper-tiny-human").is_dir(), reason="shared/whisper-tiny-human is not here")
@pytest.mark.skipif(not (SHARED / "speech" / "an4").is_dir(), reason="shared/speech/an4 is not here")
def test_human_speech_is_transcribed_sensibly() -> None:
    recognizer = load_recognizer(SHARED / "whisper-tiny-human")
    manifest = SHARED / "speech" / "an4" / "test.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()[:6]]
    audio = [soundfile.read(manifest.parent / row["audio_filepath"], dtype="float32")[0] for row in rows]
    texts = recognizer.transcribe(audio)
    heard = [set(row["text"].split()) & set(text.split()) for row, text in zip(rows, texts, strict=True)]
    assert sum(map(len, heard)) >= 0.4 * sum(len(set(row["text"].split())) for row in rows)
    with torch.inference_mode():
        features = recognizer.features(audio[:2])["input_features"]
        tokens = recognizer.model.generate(features, max_new_tokens=40)
    assert [text.strip() for text in recognizer.processor.batch_decode(tokens, skip_special_tokens=True)] == texts[:2]
