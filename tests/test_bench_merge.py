"""The benchmark of the merges runs, without mergekit, and prints a table of numbers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "bench_merge.py"


def bench(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--work-dir", str(folder), "--shape", "tiny", "--ours-only", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_table_has_a_row_of_numbers_for_every_method(tmp_path: Path) -> None:
    single = tmp_path / "single.json"
    done = bench(tmp_path / "work", "--methods", "linear,ties", "--repeats", "1", "--threads", "1", "--json", str(single))
    assert done.returncode == 0, done.stderr
    about, _, *table = done.stdout.splitlines()
    assert "cores used: 1; Whisper-tiny shape, 0.4 M parameters" in about and "page cache warm" in about
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    assert [row[0] for row in rows] == ["method", "---", "linear", "ties (tensor)", "ties (model)"]
    assert rows[0][-2:] == ["ours peak GB", "mergekit peak GB"]
    for _, ours, mergekit, floor_seconds, ratio, by_floor, ours_by_floor, busy, mergekit_busy, peak, mergekit_peak in rows[2:]:
        assert float(ours) > 0.1 and float(ours_by_floor) > 1 and float(floor_seconds) >= 0
        assert 0.1 < float(busy) <= 1.1 * float(ours)  # one processor
        whole, own = (float(number.strip("()")) for number in peak.split())
        assert 0.05 < own <= whole < 2
        assert {mergekit, ratio, by_floor, mergekit_busy, mergekit_peak} == {"–"}
    runs = json.loads(single.read_text())["runs"]
    assert [(run["case"], run["tool"]) for run in runs] == [(row[0], tool) for row in rows[2:] for tool in ("ours", "floor")]
    assert [f"{run['seconds']:.2f}" for run in runs if run["tool"] == "ours"] == [row[1] for row in rows[2:]]
    floor = next(run["peak"] for run in runs if run["tool"] == "floor")
    assert floor < 80e6  # the parent's memory, which Linux counts in, is small
    assert not (tmp_path / "work" / "runs").exists()


def test_cold_files_are_not_in_the_page_cache(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("bench_merge", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_merge"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    os.sync()
    assert module._set_page_cache([path], False) == 1
    cold = module._set_page_cache([path], True)
    if cold == 1:
        pytest.skip("this file system keeps its files in memory")
    assert cold == 0
    assert module._set_page_cache([path], False) == 1


def test_an_unknown_method_is_named(tmp_path: Path) -> None:
    done = bench(tmp_path, "--methods", "linear,tiess")
    assert done.returncode == 2
    assert "tiess: give some of linear, task_arithmetic, ties," in done.stderr
    assert not list(tmp_path.iterdir())
