"""Features on disk: the bytes that would be computed, whatever happens to the files."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from asrmerge.recognizers import load_recognizer
from asrmerge.recognizers.feature_cache import FeatureCache
from asrmerge.recognizers.transcriber import load_transcriber

Make = Callable[..., Path]
Noises = Callable[..., list[np.ndarray]]


def features(folder: Path, audio: list[np.ndarray], cache: FeatureCache | None) -> torch.Tensor:
    return load_recognizer(folder, feature_cache=cache).features(audio)["input_features"]


def test_features_have_the_same_bytes_from_the_cache(make_whisper: Make, noises: Noises, tmp_path: Path) -> None:
    folder, audio = make_whisper(), [*noises(1.0, 0.3, 0.01), np.zeros(4000, np.float32), np.zeros(0, np.float32)]
    expected = features(folder, audio, None)
    cache = FeatureCache(tmp_path / "cache")
    assert torch.equal(features(folder, audio, cache), expected)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    assert len(files) == 5 and all(file.suffix == ".npy" for file in files)
    # From the disk, in another order and company, and for another model: nothing is written again.
    assert torch.equal(features(folder, audio[::-1], FeatureCache(tmp_path / "cache")), expected.flip(0))
    assert torch.equal(features(make_whisper(seed=1), audio[1:2], cache), expected[1:2])
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()} == files
    # Silence is stored as one frame.
    assert min(np.load(file).shape[1] for file in files) == 1


def test_what_is_there_is_read(make_whisper: Make, noises: Noises, tmp_path: Path) -> None:
    folder, audio, cache = make_whisper(), noises(0.5), FeatureCache(tmp_path / "cache")
    features(folder, audio, cache)
    file = next((tmp_path / "cache").iterdir())
    np.save(file, np.full_like(np.load(file), 0.25))
    assert features(folder, audio, cache).unique().tolist() == [0.25]


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"x" * 99])
def test_a_damaged_file_is_computed_again(
    make_whisper: Make, noises: Noises, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    folder, audio, cache = make_whisper(), noises(0.5, 0.8), FeatureCache(tmp_path / "cache")
    expected = features(folder, audio, cache)
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(damage(file.read_bytes()))
    assert torch.equal(features(folder, audio, cache), expected)
    assert torch.equal(features(folder, audio, FeatureCache(tmp_path / "cache")), expected)


def test_another_extractor_and_another_sample_are_other_features(noises: Noises, tmp_path: Path) -> None:
    cache, samples = FeatureCache(tmp_path), noises(0.2)[0]
    changed = samples.copy()
    changed[-1] += 1e-6
    keys = {cache.key(samples, "a"), cache.key(samples, "b"), cache.key(changed, "a"), cache.key(samples[:-1], "a")}
    assert len(keys) == 4 and cache.key(samples.astype(">f4"), "a") in keys


def test_nothing_is_stored_beyond_the_bound(make_whisper: Make, noises: Noises, tmp_path: Path) -> None:
    folder, audio = make_whisper(), noises(1.0, 0.9, 0.8)
    expected = features(folder, audio, None)
    one = 4 * expected[0].numel()
    for allowed, files in ((one // 2, 0), (3 * one // 2, 1), (3 * one, 3)):
        cache = FeatureCache(tmp_path / str(allowed), most_bytes=allowed)
        assert torch.equal(features(folder, audio, cache), expected)
        assert len(list((tmp_path / str(allowed)).glob("*"))) == files
    # What another process has stored counts as well.
    full = FeatureCache(tmp_path / str(3 * one), most_bytes=3 * one)
    assert torch.equal(features(folder, noises(1.0, seed=1), full), features(folder, noises(1.0, seed=1), None))
    assert len(list(full.folder.glob("*"))) == 3


def _fill(folder: Path, cache: Path, audio: list[np.ndarray]) -> bytes:
    torch.set_num_threads(1)
    return features(folder, audio, FeatureCache(cache)).numpy().tobytes()


def test_processes_share_a_folder(make_whisper: Make, noises: Noises, tmp_path: Path) -> None:
    folder, audio = make_whisper(), noises(*np.linspace(0.2, 1.0, 12))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_fill, [folder] * 2, [tmp_path / "cache"] * 2, [audio, audio[::-1]]))
    expected = features(folder, audio, None)
    assert found == [expected.numpy().tobytes(), expected.flip(0).numpy().tobytes()]
    assert sorted(file.suffix for file in (tmp_path / "cache").iterdir()) == [".npy"] * 12


def test_transcribers_take_a_cache_and_ctc_has_no_use_for_it(
    make_whisper: Make, make_ctc: Make, noises: Noises, tmp_path: Path
) -> None:
    audio = noises(0.4, 0.9)
    for folder, files in ((make_whisper(), 2), (make_ctc(), 0)):
        cache = tmp_path / f"cache-{files}"
        recognizer = load_transcriber(str(folder), device="cpu", feature_cache=FeatureCache(cache))
        assert recognizer.transcribe(audio) == load_recognizer(folder).transcribe(audio)
        assert len(list(cache.glob("*"))) == files
