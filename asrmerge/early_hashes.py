"""Hashes of the models' weights, begun before the libraries are loaded, which takes seconds and only one processor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import yaml

_BUFFER = 16 << 20  # bytes; while so many are hashed, the thread leaves Python's lock to others; they fit a processor's cache
_THREADS = min(4, max(1, (os.cpu_count() or 1) - 1))  # one processor loads the libraries


@contextmanager
def early_hashes(recipe: Path) -> Iterator[Mapping[str, str]]:
    """SHA-256 of the weights that the recipe names, as ``Checkpoint.hash`` gives it: by the experts' names, and ``base``.

    Only of local folders with a single file of weights; whoever asks for one waits until it is there. A recipe that cannot be
    read gives none: what is wrong with it is for the merge to say. With the end of the block the work stops.
    """
    stopped = Event()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            yield _Hashes({name: pool.submit(_hash_file, file, stopped) for name, file in _weight_files(recipe).items()})
        finally:
            stopped.set()


class _Hashes(Mapping[str, str]):
    def __init__(self, futures: Mapping[str, Future[str]]) -> None:
        self._futures = futures

    def __getitem__(self, name: str) -> str:
        return self._futures[name].result()

    def __iter__(self) -> Iterator[str]:
        return iter(self._futures)

    def __len__(self) -> int:
        return len(self._futures)


def _weight_files(recipe: Path) -> dict[str, Path]:
    try:
        content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    if not isinstance(content, dict):
        return {}
    experts = content.get("experts")
    named = [expert for expert in experts if isinstance(expert, dict)] if isinstance(experts, list) else []
    models = [("base", content.get("base")), *((expert.get("name"), expert.get("model")) for expert in named)]
    folders = {name: Path(model).expanduser() for name, model in models if isinstance(name, str) and isinstance(model, str)}
    files = {name: folder / "model.safetensors" for name, folder in folders.items() if (folder / "config.json").is_file()}
    return {name: file for name, file in files.items() if file.is_file()}


def _hash_file(file: Path, stopped: Event) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_BUFFER))
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            if stopped.is_set():
                raise InterruptedError(f"the hash of {file} is no longer wanted")
            digest.update(buffer[:count])
    return digest.hexdigest()
