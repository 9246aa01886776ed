"""`asrmerge inspect`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrmerge.commands.pairs import read_pairs
from asrmerge.errors import ConfigError

if TYPE_CHECKING:
    from asrmerge.inspection.diagnosis import Diagnosis
    from asrmerge.progress import ProgressView


def inspect(
    experts: Annotated[list[str], typer.Argument(help="NAME=MODEL for each fine-tune: a folder, hub id or embedded:NAME.")],
    base: Annotated[str | None, typer.Option("--base", "-b", help="The model that was fine-tuned.")] = None,
    merged: Annotated[str | None, typer.Option("--merged", "-m", help="A merge of them: where does it collapse?")] = None,
    audio: Annotated[
        list[str] | None,
        typer.Option(
            "--audio", "-a", help="NAME=[FORMAT:]PLACE[,option=value…]: what the expert NAME and the merge are to hear."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write heat maps, and the merge's chart, to this HTML file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")] = None,
    utterances: Annotated[int, typer.Option(help="At most so many of each domain's audio, drawn by the seed.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    keep: Annotated[Path | None, typer.Option(help="Keep statistics of activations in this folder, for the next time.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes, one model each; by default one per processor.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = "auto",
    language: Annotated[str | None, typer.Option(help="What is spoken, for multilingual Whisper.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for audio of data sets.")] = Path("~/.cache/asrmerge"),
) -> None:
    """Compare models before merging: architecture, base, task vectors; with --merged and --audio, a merge's activations."""
    from rich.console import Console

    from asrmerge.commands.console import console_logging
    from asrmerge.progress import ProgressView

    named, places = read_pairs("expert", experts), read_pairs("--audio", audio)
    _check_diagnosis(named, merged, places)
    from asrmerge.inspection.inspecting import run_inspection
    from asrmerge.inspection.tables import inspection_table, table_width

    with console_logging(Console(stderr=True)) if merged else nullcontext(), ProgressView() as view, _folder(keep) as folder:
        diagnose = None
        if merged is not None:
            limits = {"utterances": utterances, "seed": seed}
            diagnose = _plan_diagnosis(
                merged, named, base, places, folder, limits, view,
                workers=workers, device=device, language=language, cache=cache.expanduser(),
            )  # fmt: skip
        inspection = run_inspection(base, named, html, json, view.task("inspecting"), diagnose)
    console = Console()
    console.width = max(console.width, table_width(inspection))
    console.print(inspection_table(inspection))
    if not inspection.compatible:
        raise typer.Exit(2)


def _check_diagnosis(experts: Mapping[str, str], merged: str | None, audio: Mapping[str, str]) -> None:
    """What needs no model to be seen."""
    if merged is not None and not audio:
        raise ConfigError("--merged needs audio that it and the experts can hear: give --audio NAME=CORPUS for each expert.")
    if audio and merged is None:
        raise ConfigError("--audio is what a merge and its experts are compared on: give the merge by --merged too.")
    for name in audio:
        if name not in experts:
            raise ConfigError(f"--audio {name}: there is no expert of that name; name the audio as one of {', '.join(experts)}.")


def _plan_diagnosis(
    merged: str,
    experts: Mapping[str, str],
    base: str | None,
    audio: Mapping[str, str],
    folder: Path,
    limits: Mapping[str, int],
    view: ProgressView,
    *,
    workers: int | None,
    device: str,
    language: str | None,
    cache: Path,
) -> Callable[[], Diagnosis]:
    """Read the audio and look at the merge, so that bad input is found before long work; what to call for the rest."""
    from asrmerge.inspection.diagnosing import open_compared
    from asrmerge.pipeline.diagnostics import diagnose_merges
    from asrmerge.processors import processor_count
    from asrmerge.recognizers.transcriber import find_device
    from asrmerge.speech.corpora import read_corpus
    from asrmerge.statistics.settings import StatisticsSettings
    from asrmerge.validation import validate

    settings = validate(StatisticsSettings, {"kinds": ("activations",), **limits}, "inspect")
    chosen = find_device(device)
    first = next(iter(experts))
    open_compared(merged, {first: experts[first]}, None)  # whether the experts fit each other, the inspection says
    corpora = {
        name: read_corpus(place, domain=name, cache=cache / "corpora", training=True, on_progress=view.task(f"reading {name}"))
        for name, place in audio.items()
    }
    count = workers or (processor_count() if chosen == "cpu" else 1)

    def diagnose() -> Diagnosis:
        found = diagnose_merges(
            {"merged": merged}, experts, base, corpora, folder, settings,
            workers=count, device=chosen, language=language, view=view,
        )  # fmt: skip
        return found["merged"]

    return diagnose


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep.expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="asrmerge-") as folder:
        yield Path(folder)
