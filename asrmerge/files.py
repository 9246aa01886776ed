"""Atomic writing and content hashes: a killed process leaves either the old output or the new one."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become ``path`` when the block ends well; else ``path`` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    with atomic_file(path) as stream:
        stream.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``path`` when the block ends well; else ``path`` stays as it was.

    Where ``path`` is a link, the folder that it points to is replaced.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_up_after_killed(path)
    temporary = _temporary_folder(path, "new")
    temporary.chmod(0o755)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o644)  # safetensors writes for the owner only
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        _exchange(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, path: Path) -> None:
    if not path.exists():
        new.replace(path)
        return
    old = _temporary_folder(path, "old")
    try:
        path.replace(old)
        new.replace(path)
    except BaseException:
        if path.exists():
            old.rmdir()
        else:
            old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _temporary_folder(path: Path, role: Literal["new", "old"]) -> Path:
    return Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.{role}-{os.getpid()}."))


def _clear_up_after_killed(path: Path) -> None:
    """Remove what killed processes left beside ``path``; a folder that one had just moved away for its new one comes back."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*-*.*"):
        role, _, process = folder.name.removeprefix(f".{path.name}.").partition(".")[0].partition("-")
        if role not in ("new", "old") or not process.isdigit() or _is_running(int(process)):
            continue
        if role == "old" and not path.exists() and any(folder.iterdir()):
            folder.replace(path)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_content(content: Any) -> str:
    """SHA-256 of ``content`` as canonical JSON: what a stage's output is keyed by."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
