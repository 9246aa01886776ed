"""Atomic writing: the old output or the new one, whatever goes wrong; hashes by content."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrmerge.files import atomic_folder, hash_content, hash_file, write_json, write_text


def test_text_replaces_what_was_there_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "one")
    write_text(path, "twö\n")
    assert path.read_bytes() == "twö\n".encode() and [file.name for file in path.parent.iterdir()] == ["a.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_failed_write_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.txt", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_json_is_readable_and_ends_with_a_line_break(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, "ü"], "a": None})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"b": [1, "ü"], "a": None} and "ü" in text and text.endswith("}\n")


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    for text in ("one", "two"):
        with atomic_folder(target) as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / text).write_text(text)
            (temporary / "inner" / text).chmod(0o600)
            assert not (target / "inner" / text).exists()
        assert [file.name for file in target.rglob("*")] == ["inner", text]
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in (target, target / "inner" / "two")] == ["0o755", "0o644"]


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_block_leaves_the_old_folder(tmp_path: Path, existing: bool, error: type[BaseException]) -> None:
    target = tmp_path / "out"
    if existing:
        target.mkdir()
        (target / "old").write_text("old")
    with pytest.raises(error), atomic_folder(target) as temporary:
        (temporary / "new").write_text("new")
        raise error
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == (["out", "out/old"] if existing else [])


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for link, target in (("link", "real"), ("dangling", "made")):
        (tmp_path / link).symlink_to(tmp_path / target)
        with atomic_folder(tmp_path / link) as temporary:
            (temporary / "new").write_text("new")
        assert (tmp_path / link).is_symlink() and (tmp_path / target / "new").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "link", "made", "real"]


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("empty", [True, False])
def test_a_failed_exchange_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, empty: bool
) -> None:
    """The first rename moves the old folder away (it fails where a disk is mounted there), the second puts the new one there."""
    target = tmp_path / "out"
    target.mkdir()
    if not empty:
        (target / "old").write_text("old")
    before, calls, replace = sorted(target.rglob("*")), [], Path.replace

    def fail(path: Path, other: Path) -> Path:
        calls.append(path)
        if len(calls) == failing:
            raise OSError(16, "Device or resource busy")
        return replace(path, other)

    with pytest.raises(OSError, match="busy"), atomic_folder(target) as temporary:
        (temporary / "new").write_text("new")
        monkeypatch.setattr(Path, "replace", fail)
    assert sorted(target.rglob("*")) == before and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_leaves_no_half_folder(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from asrmerge.files import atomic_folder
with atomic_folder(Path({str(tmp_path)!r}) / "out") as temporary:
    (temporary / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()


def test_a_files_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    for content in (b"", b"abc", b"x" * (3 << 20)):
        (tmp_path / "a").write_bytes(content)
        assert hash_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4), JSON)
def test_the_hash_of_a_content_is_of_its_values_not_of_the_order_of_keys(content: dict[str, object], other: object) -> None:
    reordered = dict(reversed(content.items()))
    assert hash_content(reordered) == hash_content(content) == hash_content(json.loads(json.dumps(content)))
    same = json.dumps(other, sort_keys=True) == json.dumps(content, sort_keys=True)
    assert (hash_content(other) == hash_content(content)) == same


def test_the_hash_knows_paths_and_tuples() -> None:
    assert hash_content({"a": Path("/x"), "b": (1, 2)}) == hash_content({"b": [1, 2], "a": "/x"})


def test_what_a_killed_process_left_is_removed_and_an_old_folder_comes_back(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    target = tmp_path / "out"
    (tmp_path / f".out.new-{ended.pid}.abc").mkdir()
    moved = tmp_path / f".out.old-{ended.pid}.abc"
    moved.mkdir()
    (moved / "kept").write_text("old")
    (tmp_path / f".out.new-{os.getpid()}.abc").mkdir()  # of a process that still runs
    with pytest.raises(RuntimeError), atomic_folder(target):
        raise RuntimeError
    assert (target / "kept").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".out.new-{os.getpid()}.abc", "out"]
