"""Fine-tuning tiny random models: what it learns, what it leaves alone, what it keeps and writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_recognizers import make_models

from asrmerge.errors import AudioError, ManifestError
from asrmerge.experts.finetune import TrainingAudio, finetune
from asrmerge.experts.settings import FinetuneSettings
from asrmerge.recognizers.recognizer import load_recognizer
from asrmerge.speech.audio import read_audio, write_audio
from asrmerge.speech.manifest import Utterance

FAMILIES = ("ctc", "whisper")
PITCHES = {"a": 300, "be": 700, "cab": 1500, "dad": 2500, "egg": 3800}
QUICK = FinetuneSettings(steps=4, batch_seconds=3, learning_rate=1e-3, replay=0.25, evaluate_every=2, patience=9)


def tones(folder: Path, name: str, count: int, seed: int, seconds: float = 0.5) -> list[Utterance]:
    """Each word has its own pitch: something that a small model can learn."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        words = list(random.choice(list(PITCHES), 2))
        time = np.arange(int(16_000 * seconds / 2)) / 16_000
        sound = np.concatenate([0.3 * np.sin(2 * np.pi * PITCHES[word] * time) for word in words])
        path = folder / name / f"{index}.wav"
        write_audio(path, sound + random.normal(0, 0.01, len(sound)))
        made.append(Utterance(f"{name}-{index}", path, len(sound) / 16_000, " ".join(words), domain=name))
    return made


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> TrainingAudio:
    folder = tmp_path_factory.mktemp("audio")
    return TrainingAudio(tones(folder, "train", 12, 0), tones(folder, "general", 6, 1), tones(folder, "validation", 6, 2))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    made = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        made[family] = str(make_models(folder, family)[0])
    return made


def changed(base: str | Path, other: str | Path) -> set[str]:
    one, two = (load_file(Path(folder) / "model.safetensors") for folder in (base, other))
    assert one.keys() == two.keys()
    return {name for name in one if not torch.equal(one[name], two[name])}


def validation_loss(folder: Path, utterances: list[Utterance] | Any) -> float:
    recognizer = load_recognizer(folder)
    with torch.no_grad():
        samples = [read_audio(one.audio) for one in utterances]
        batch = {**recognizer.features(samples), "labels": recognizer.labels([one.text for one in utterances])}
        return float(recognizer.loss(batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_falls_and_what_is_written_is_what_was_measured(
    family: str, bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path
) -> None:
    settings = QUICK.model_copy(update={"steps": 30, "evaluate_every": 10, "learning_rate": 1e-2})
    record = finetune(bases[family], audio, tmp_path / "out", settings, seed=1)
    losses = dict(record.validation_loss)
    assert list(losses) == [0, 10, 20, 30] and [step for step, _ in record.loss] == [10, 20, 30]
    assert min(losses.values()) < 0.8 * losses[0] and record.loss[-1][1] < record.loss[0][1]
    assert record.best_step == min(losses, key=lambda step: losses[step])
    assert validation_loss(Path(bases[family]), audio.validation) == pytest.approx(losses[0], rel=1e-4)
    assert validation_loss(tmp_path / "out", audio.validation) == pytest.approx(losses[record.best_step], rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_speeds_are_heard_while_training_only(
    family: str, bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path
) -> None:
    window = load_recognizer(bases[family]).window_seconds
    long = tones(tmp_path, "long", 4, 3, seconds=window or 0.5)  # slower than this, they would not fit
    faster = QUICK.model_copy(update={"speed": 0.2})
    heard = TrainingAudio([*audio.domain, *long], audio.general, audio.validation)
    one, two = (finetune(bases[family], heard, tmp_path / name, faster, seed=1) for name in ("one", "two"))
    plain = finetune(bases[family], heard, tmp_path / "plain", QUICK, seed=1)
    assert one == two and not changed(tmp_path / "one", tmp_path / "two")
    assert one.validation_loss[0] == plain.validation_loss[0] and one.loss != plain.loss


def test_plain_transcripts_are_learnt_as_if_written_so(bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path) -> None:
    def written(utterances: Any) -> list[Utterance]:
        return [replace(one, text=one.text.title() + "!") for one in utterances]

    loud = TrainingAudio(written(audio.domain), written(audio.general), written(audio.validation))
    plain = QUICK.model_copy(update={"transcripts": "plain"})
    expected = finetune(bases["whisper"], audio, tmp_path / "expected", QUICK, seed=1)
    record = finetune(bases["whisper"], loud, tmp_path / "plain", plain, seed=1)
    as_written = finetune(bases["whisper"], loud, tmp_path / "written", QUICK, seed=1)
    assert record == expected and as_written.loss != expected.loss
    wordless = replace(audio.domain[0], text="?!")
    finetune(bases["whisper"], TrainingAudio([wordless, *loud.domain], [], loud.validation), tmp_path / "out", plain, seed=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_front_end_stays_the_bases_and_everything_else_learns(
    family: str, bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path
) -> None:
    frontend = set(load_recognizer(bases[family]).frontend_parameters())
    for freeze in ("frontend", "nothing"):
        settings = QUICK.model_copy(update={"freeze": freeze})
        finetune(bases[family], audio, tmp_path / freeze, settings, seed=1)
    frozen, free = (changed(bases[family], tmp_path / freeze) for freeze in ("frontend", "nothing"))
    assert frontend and not frozen & frontend and free & frontend
    # What Whisper's encoder reads its positions from is never trained; nor is the mask that only SpecAugment uses.
    everything = {name for name in load_file(Path(bases[family]) / "model.safetensors") if "masked_spec_embed" not in name}
    assert len(everything - frontend - frozen) <= 0.1 * len(everything)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_encoder_stays_the_bases(family: str, bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path) -> None:
    finetune(bases[family], audio, tmp_path / "out", QUICK.model_copy(update={"freeze": "encoder"}), seed=1)
    names = changed(bases[family], tmp_path / "out")
    assert names
    assert all(name.startswith("model.decoder" if family == "whisper" else "lm_head") for name in names), names


def test_frozen_encoder_states_are_computed_once_and_change_nothing(
    bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asrmerge.experts import finetune as module
    from asrmerge.recognizers.families.whisper import WhisperRecognizer

    encoded: list[int] = []
    encode = WhisperRecognizer.encode

    def counting(self: Any, samples: Any, **options: Any) -> torch.Tensor:
        encoded.append(len(samples))
        return encode(self, samples, **options)

    settings = QUICK.model_copy(update={"freeze": "encoder", "steps": 8})
    monkeypatch.setattr(WhisperRecognizer, "encode", counting)
    cached = finetune(bases["whisper"], audio, tmp_path / "cached", settings, seed=1)
    assert sum(encoded) <= len(audio.domain) + len(audio.general) + len(audio.validation)
    monkeypatch.setattr(module, "_CACHE_BYTES", 0)
    uncached = finetune(bases["whisper"], audio, tmp_path / "uncached", settings, seed=1)
    assert cached.validation_loss == uncached.validation_loss and not changed(tmp_path / "cached", tmp_path / "uncached")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loss_that_only_rises_ends_early_and_keeps_the_base(
    family: str, bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path
) -> None:
    settings = QUICK.model_copy(
        update={"steps": 20, "evaluate_every": 1, "patience": 2, "learning_rate": 30.0, "warmup": 0.0, "gradient_norm": 1e9}
    )
    record = finetune(bases[family], audio, tmp_path / "out", settings, seed=1)
    assert (record.steps, record.best_step) == (2, 0) and len(record.validation_loss) == 3
    assert changed(bases[family], tmp_path / "out") == set()


def test_the_best_look_is_kept_even_if_later_ones_are_worse(
    bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path
) -> None:
    settings = QUICK.model_copy(update={"steps": 40, "evaluate_every": 4, "patience": 3, "learning_rate": 0.1})
    record = finetune(bases["whisper"], audio, tmp_path / "out", settings, seed=1)
    losses = dict(record.validation_loss)
    last = max(losses)
    assert 0 < record.best_step < last and losses[record.best_step] < losses[last], losses
    assert validation_loss(tmp_path / "out", audio.validation) == pytest.approx(losses[record.best_step], rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    family: str, bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path
) -> None:
    for name, seed in (("one", 3), ("other", 4), ("two", 3)):
        finetune(bases[family], audio, tmp_path / name, QUICK, seed=seed)
    files = {name: {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "other", "two")}
    assert files["one"] == files["two"]
    assert files["one"]["model.safetensors"] != files["other"]["model.safetensors"]


def test_training_json_says_how_it_went(bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    record = finetune(
        bases["ctc"], audio, tmp_path / "out", QUICK, seed=5, steps=3, on_step=lambda done, total: told.append((done, total))
    )
    written = json.loads((tmp_path / "out" / "training.json").read_text())
    assert written == json.loads(json.dumps({"settings": QUICK.model_dump(), **asdict(record)}))
    assert (written["seed"], written["steps"], written["settings"]["steps"]) == (5, 3, 4)
    assert told == [(1, 3), (2, 3), (3, 3)]
    # Batches of at most 3 s of padded audio, all of it tones of half a second: 2.25 s of the domain's, 0.75 s of the other.
    assert written["audio_seconds"] == pytest.approx(3 * (2.0 + 0.5))
    assert [step for step, _ in written["validation_loss"]] == [0, 2, 3]


PLAIN = """
import sys
import numpy as np
from transformers import AutoModelForCTC, AutoProcessor, WhisperForConditionalGeneration
sound = np.zeros(8000, dtype=np.float32)
processor, model = AutoProcessor.from_pretrained("ctc"), AutoModelForCTC.from_pretrained("ctc")
inputs = processor(sound, sampling_rate=16000, return_tensors="pt")
assert len(processor.batch_decode(model(**inputs).logits.argmax(-1))) == 1
processor, model = AutoProcessor.from_pretrained("whisper"), WhisperForConditionalGeneration.from_pretrained("whisper")
inputs = processor(sound, sampling_rate=16000, return_tensors="pt")
assert len(model.generate(inputs.input_features, max_new_tokens=3)) == 1
assert not any(name.startswith("asrmerge") for name in sys.modules)
"""


def test_experts_load_in_plain_transformers(bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path) -> None:
    for family in FAMILIES:
        finetune(bases[family], audio, tmp_path / family, QUICK, seed=1, steps=1)
        assert {tensor.dtype for tensor in load_file(tmp_path / family / "model.safetensors").values()} == {torch.float32}
    result = subprocess.run([sys.executable, "-c", PLAIN], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_utterances_beyond_the_window_are_left_out(bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path) -> None:
    long = tones(tmp_path, "long", 3, 9, seconds=1.4)
    for name, given in (
        ("short", audio),
        ("mixed", replace(audio, domain=[*long, *audio.domain], general=[*long, *audio.general],
                          validation=[*long, *audio.validation])),
    ):  # fmt: skip
        finetune(bases["whisper"], given, tmp_path / name, QUICK, seed=1)
    assert not changed(tmp_path / "short", tmp_path / "mixed")


@pytest.mark.parametrize("what", ["domain", "validation"])
def test_no_audio_within_the_window_is_refused_and_nothing_is_written(
    what: str, bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path
) -> None:
    long = tones(tmp_path, "long", 3, 9, seconds=1.4)
    kind = "training" if what == "domain" else "validation"
    for utterances in (long, []):
        with pytest.raises(ManifestError, match=rf"no {kind} audio of at most 1 s to fine-tune on; give a manifest with some"):
            finetune(bases["whisper"], replace(audio, **{what: utterances}), tmp_path / "out", QUICK, seed=1)
    assert not (tmp_path / "out").exists()


def test_a_missing_audio_file_leaves_the_earlier_expert(bases: Mapping[str, str], audio: TrainingAudio, tmp_path: Path) -> None:
    finetune(bases["ctc"], audio, tmp_path / "out", QUICK, seed=1, steps=1)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    gone = replace(audio.domain[0], audio=tmp_path / "gone.wav")
    with pytest.raises(AudioError, match=r"gone\.wav"):
        finetune(bases["ctc"], replace(audio, domain=[gone]), tmp_path / "out", QUICK, seed=1)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
