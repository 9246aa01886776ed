"""The command line: what it lists, what it merges, and exit codes with one sentence on standard error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from reference.tiny_models import fine_tuned, save, tiny_model
from safetensors.torch import load_file

from asrmerge import __version__
from asrmerge.adapters.registry import find_adapter_methods
from asrmerge.content import content_folder
from asrmerge.merging.registry import find_methods

Outcome = tuple[int, str, str]  # exit code, standard output, standard error
RunCommand = Callable[..., Outcome]


def test_the_version_is_the_packages(command: RunCommand) -> None:
    assert command("--version") == (0, f"asrmerge {__version__}\n", "")


def test_methods_are_listed_with_what_they_do(command: RunCommand) -> None:
    code, out, _ = command("methods")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert {*find_methods(), *find_adapter_methods()} <= set(lines)
    assert "(needs a base)" in lines["task_arithmetic"] and "(needs a base)" not in lines["linear"]
    assert all(len(line.split()) > 2 for name, line in lines.items() if name in find_methods())
    assert "density=0.2, scope=model" in out


@pytest.mark.parametrize("name", ["karcher", "product", "ties"])
def test_a_method_is_explained(command: RunCommand, name: str) -> None:
    code, out, _ = command("methods", name)
    parameters = {**find_methods(), **find_adapter_methods()}[name].parameters.model_fields
    assert code == 0 and out.startswith(name) and "arXiv" in out
    for key, field in parameters.items():
        assert f"  {key}: " in out and str(field.description) in out
    assert ("tolerance: float > 0.0 and ≤ 1.0, default 1e-05" in out) == (name == "karcher")
    assert ("rank: max | lossless | int, default max" in out) == (name == "product")


def test_an_unknown_method_is_answered_with_the_nearest(command: RunCommand) -> None:
    code, out, error = command("methods", "karchre")
    assert (code, out) == (2, "") and "unknown merge method 'karchre'; did you mean 'karcher'?" in error


def test_inspect_tells_fine_tunes_from_strangers(command: RunCommand, tmp_path: Path) -> None:
    base, legal, stranger = (
        save(model, tmp_path / name)
        for name, model in [("base", tiny_model("ctc")), ("legal", fine_tuned("ctc", 1)), ("odd", tiny_model("whisper"))]
    )
    code, out, _ = command(
        "inspect", f"legal={legal}", "--base", base, "--html", tmp_path / "a.html", "--json", tmp_path / "a.json"
    )
    assert code == 0 and "legal" in out and (tmp_path / "a.html").stat().st_size and (tmp_path / "a.json").stat().st_size
    code, out, _ = command("inspect", f"legal={legal}", f"odd={stranger}", "--base", base)
    assert code == 2 and "odd" in out
    code, out, _ = command("inspect", "one=embedded:ctc", "--base", "embedded:ctc")
    assert code == 0 and "one equals the base" in out
    code, _, error = command("inspect", f"legal={legal}@main", "--base", base)
    assert code == 2 and f"{legal} is a local folder and has no revision main" in error
    code, _, error = command("inspect", str(legal), "--base", base)
    assert code == 2 and "expert" in error and "write NAME=VALUE" in error


def test_domains_are_listed_with_their_terms(command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("domains")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == [
        "conversation", "general", "legal", "medical", "technical",
    ]  # fmt: skip
    legal = next(line for line in out.splitlines() if line.startswith("legal"))
    assert f"{len((content_folder('domains') / 'legal' / 'terms.txt').read_text().split(chr(10))) - 1} terms" in legal


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    base = save(tiny_model("ctc"), tmp_path / "base")
    experts = [save(fine_tuned("ctc", seed), tmp_path / f"expert-{seed}") for seed in (1, 2)]
    content = {
        "method": "task_arithmetic",
        "base": str(base),
        "experts": [{"name": folder.name, "model": str(folder), "weight": 0.5} for folder in experts],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_merging_by_a_recipe(command: RunCommand, recipe: Path) -> None:
    folder = recipe.parent
    code, out, _ = command("merge", recipe, folder / "merged")
    assert (code, out) == (0, f"merged model  {folder / 'merged'}\n")
    states = {name: load_file(folder / name / "model.safetensors") for name in ("merged", "expert-1", "expert-2")}
    name = "lm_head.weight"
    assert torch.allclose(states["merged"][name], (states["expert-1"][name] + states["expert-2"][name]) / 2, atol=1e-6)


def test_a_merge_that_cannot_be_is_one_sentence_and_leaves_the_output(command: RunCommand, recipe: Path) -> None:
    command("merge", recipe, recipe.parent / "merged")
    before = {file.name: file.read_bytes() for file in (recipe.parent / "merged").iterdir()}
    save(tiny_model("whisper"), recipe.parent / "expert-2")
    code, out, error = command("merge", recipe, recipe.parent / "merged")
    assert (code, out) == (2, "") and error.startswith("asrmerge: config.json says model_type") and error.count("\n") == 1
    assert {file.name: file.read_bytes() for file in (recipe.parent / "merged").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["fly"], "No such command 'fly'"),
        (["run"], "Missing argument"),
        (["run", "quickstart", "--fast"], "No such option: --fast"),
        (["run", "quickstart", "--workers", "0"], "--workers"),
        (["run", "quickstart", "--define", "A"], "--define A: write NAME=VALUE"),
        (["run", "no-such-thing"], "no-such-thing: no such configuration"),
        (["merge", "no-such.yaml", "out"], "no-such.yaml"),
    ],
)
def test_wrong_commands_exit_with_2_and_say_why(
    command: RunCommand, arguments: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = command(*arguments)
    assert (code, out) == (2, "") and part in " ".join(error.split()) and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_nothing_to_do_is_help(command: RunCommand) -> None:
    code, out, error = command()
    assert code == 2 and "Usage" in out + error


def test_an_interruption_says_how_to_go_on(command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asrmerge.pipeline import run

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_pipeline", interrupted)
    code, _, error = command("run", "quickstart", "--output", tmp_path / "run")
    assert code == 130 and "run the same command again to go on" in error and "Traceback" not in error


def test_bugs_keep_their_trace(command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asrmerge.pipeline import run

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(run, "run_pipeline", broken)
    with pytest.raises(ZeroDivisionError):
        command("run", "quickstart", "--output", tmp_path / "run")


def test_options_go_before_the_configuration(command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asrmerge.errors import AsrmergeError
    from asrmerge.pipeline import run

    seen = []

    def record(config: object, **given: object) -> None:
        seen.append((config, given["command"]))
        raise AsrmergeError("enough")

    monkeypatch.setattr(run, "run_pipeline", record)
    (tmp_path / "a.yaml").write_text(
        "{name: a, output: here, base: '${BASE}', domains: {x: {train: a, validation: b, test: c}}, workers: 2}"
    )
    assert command("run", tmp_path / "a.yaml", "-D", "BASE=a=b", "--workers", "3", "-o", tmp_path / "o")[0] == 2
    [(config, line)] = seen
    assert (config.base, config.workers, config.output) == ("a=b", 3, str(tmp_path / "o"))
    assert line == f"asrmerge run {tmp_path / 'a.yaml'} -D BASE=a=b --workers 3 -o {tmp_path / 'o'}"


def test_a_bad_configuration_is_found_without_loading_torch(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("nam: a")
    code = "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); from asrmerge.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "run", str(tmp_path / "a.yaml")], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (2, "False\n")
    assert result.stderr.startswith(f"asrmerge: {tmp_path / 'a.yaml'}: unknown key 'nam'; did you mean 'name'?")
    assert result.stderr.count("\n") == 1
