"""`asrmerge evaluate`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from asrmerge.commands.pairs import read_pairs


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="NAME=SOURCE each: a checkpoint's folder, hub id, embedded:NAME or exported folder; or a system's transcripts, "
            "[FORMAT:]FILE with {set} for the set's name, or a folder with a file per set."
        ),
    ],
    suite: Annotated[str | None, typer.Option("--suite", "-s", help="A suite's YAML file, or the name of a shipped one.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=[FORMAT:]PLACE[,option=value…]: a test set, beside the suite's or in its place."),
    ] = None,
    terms: Annotated[list[str] | None, typer.Option("--terms", help="SET=FILE of key terms, or a shipped domain's name.")] = None,
    gates: Annotated[list[str] | None, typer.Option("--gate", help="Such as 'medical.wer <= 0.12'; one more.")] = None,
    candidate: Annotated[
        str | None, typer.Option(help="The model that is compared with all others and judged; else merged, else the first.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="The model before fine-tuning; else the one called base.")] = None,
    experts: Annotated[
        list[str] | None, typer.Option("--expert", help="SET=MODEL fine-tuned for it; else the model called as the set.")
    ] = None,
    general: Annotated[str | None, typer.Option(help="The set that shows how much of the base's accuracy is kept.")] = None,
    learnt: Annotated[
        list[str] | None, typer.Option(help="A corpus that was trained or tuned on: test audio that is in it is refused.")
    ] = None,
    normalizer: Annotated[str | None, typer.Option(help="whisper, basic, none, a chain such as nfkc+lowercase, …")] = None,
    substitutions: Annotated[str | None, typer.Option(help="A file of wordings that count as the same.")] = None,
    alignment: Annotated[str | None, typer.Option(help="levenshtein (as jiwer) or sclite.")] = None,
    slices: Annotated[
        list[str] | None, typer.Option("--slice", help="speaker, duration or a manifest's field: WER by its values.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Bootstrap draws.")] = None,
    level: Annotated[float | None, typer.Option(help="Of the intervals.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draws.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for scorecard, report and transcripts.")] = Path(
        "evaluation"
    ),
    define: Annotated[list[str] | None, typer.Option("--define", "-D", help="NAME=VALUE for ${NAME} in the suite.")] = None,
    audio: Annotated[bool, typer.Option("--audio", help="Copy the audio beside the report, to be played there.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processors to use; by default all.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; for exported models CTranslate2's compute types.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="What is spoken, for multilingual Whisper: a name or code.")] = None,
    batch_seconds: Annotated[float, typer.Option(min=1, help="Audio that goes through a model together.")] = 60.0,
    cache: Annotated[Path, typer.Option(help="Folder for synthesised speech and audio of data sets.")] = Path(
        "~/.cache/asrmerge"
    ),
) -> None:
    """Score models, or any system's transcripts, on test sets: figures, statistics, gates, report. Exit code 1: a gate failed."""
    from rich.console import Console

    from asrmerge.commands.console import console_logging, file_logging
    from asrmerge.pipeline.evaluating import DecodingOptions
    from asrmerge.pipeline.evaluation import Evaluation, run_evaluation
    from asrmerge.pipeline.systems import parse_systems
    from asrmerge.processors import processor_count
    from asrmerge.progress import ProgressView
    from asrmerge.report.markdown import markdown_table
    from asrmerge.suite import complete_suite

    changes = {
        "name": None if suite else output.name,
        "sets": read_pairs("--set", sets),
        "terms": read_pairs("--terms", terms),
        "gates": gates,
        "general": general,
        "normalizer": normalizer,
        "substitutions": substitutions,
        "alignment": alignment,
        "slices": slices,
        "samples": samples,
        "level": level,
        "seed": seed,
    }
    chosen = complete_suite(suite, read_pairs("--define", define), changes)
    systems = parse_systems(models, list(chosen.sets))
    names = [system.name for system in systems]
    evaluation = Evaluation(
        suite=chosen,
        systems=systems,
        output=output.expanduser(),
        candidate=candidate or ("merged" if "merged" in names else next((n for n in names if n != "base"), names[0])),
        base=base or ("base" if "base" in names else None),
        experts={name: name for name in chosen.sets if name in names} | read_pairs("--expert", experts),
        options=DecodingOptions(device=device, precision=precision, language=language, batch_seconds=batch_seconds),
        cache=cache.expanduser(),
        learnt=tuple(learnt or ()),
        workers=workers or processor_count(),
        with_audio=audio,
    )
    command = shlex.join(["asrmerge", *sys.argv[1:]])
    with console_logging(Console(stderr=True)), file_logging(evaluation.output / "log.txt") as log, ProgressView() as view:
        result = run_evaluation(evaluation, command=command, view=view, on_folder=log)
    typer.echo(markdown_table(result.report.scorecard, result.report.models))
    for gate in result.gates:
        typer.echo(gate.sentence)
    typer.echo(f"scorecard     {evaluation.output / 'scorecard.json'}\nreport        {evaluation.output / 'report.html'}")
    if not result.passed:
        raise typer.Exit(1)
