"""`asrmerge stats`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asrmerge.commands.pairs import read_pairs
from asrmerge.errors import ConfigError


def stats(
    models: Annotated[
        list[str], typer.Argument(help="NAME=MODEL each: a folder, hub id, embedded:NAME, LoRA adapter or base+adapter.")
    ],
    audio: Annotated[
        list[str] | None,
        typer.Option("--audio", "-a", help="NAME=[FORMAT:]PLACE[,option=value…]: what the model NAME is to hear."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder: NAME/KIND.safetensors are written to it.")] = Path(
        "statistics"
    ),
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", help="fisher, grams, factors or activations; by default fisher and grams.")
    ] = None,
    fisher: Annotated[
        str,
        typer.Option(
            help="sampled (labels drawn from the model), empirical (the transcripts), or adam: from the optimiser's second "
            "moments beside the model; with audio, its rank correlation with a sampled one is shown."
        ),
    ] = "sampled",
    optimizer: Annotated[
        list[str] | None, typer.Option(help="With adam: NAME=FILE, where it is not beside the model NAME.")
    ] = None,
    utterances_per_step: Annotated[
        float | None, typer.Option(help="With adam, of a Trainer's optimizer.pt: batch × accumulated batches × devices.")
    ] = None,
    gradient_norm: Annotated[
        float | None, typer.Option(help="With adam, of a Trainer's: what gradients were clipped to.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Samples of each utterance, where they are drawn.")] = 1,
    base: Annotated[
        str | None, typer.Option("--base", "-b", help="Leave out what none of the models has changed of this one.")
    ] = None,
    every_domain: Annotated[
        bool, typer.Option("--every-domain", help="Each model hears every domain; into NAME/DOMAIN.")
    ] = False,
    utterances: Annotated[int | None, typer.Option(help="At most so many of each domain, drawn by the seed.")] = None,
    padding_every: Annotated[
        int, typer.Option(help="Of the silence that fills a window, every so-and-so-many-th position counts; 0: none.")
    ] = 10,
    widest: Annotated[int, typer.Option(help="Linear maps with more inputs are left out.")] = 8192,
    batch_seconds: Annotated[float, typer.Option(help="Audio in a batch, where no gradients are taken.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes, one model each; by default one per processor.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of each process; sums round by how many there are.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = "auto",
    language: Annotated[str | None, typer.Option(help="What is spoken, for multilingual Whisper.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for audio of data sets.")] = Path("~/.cache/asrmerge"),
) -> None:
    """Collect what models reveal on their domain's audio: Fisher information, Gram matrices, output factors, activations."""
    from rich.console import Console

    from asrmerge.commands.console import console_logging
    from asrmerge.pipeline.optimizer_statistics import DIRECT, compare_with_direct, optimizer_statistics
    from asrmerge.pipeline.statistics import plan_statistics, run_statistics
    from asrmerge.processors import processor_count
    from asrmerge.progress import ProgressView
    from asrmerge.recognizers.transcriber import find_device
    from asrmerge.speech.corpora import read_corpus
    from asrmerge.statistics.settings import StatisticsSettings
    from asrmerge.validation import validate

    adam = fisher == "adam"
    given = {
        "fisher": "sampled" if adam else fisher,
        "draws": draws,
        "padding_every": padding_every,
        "utterances": utterances,
        "widest": widest,
        "batch_seconds": batch_seconds,
        "seed": seed,
    } | ({"kinds": tuple(kinds)} if kinds else {})
    settings = validate(StatisticsSettings, given, "stats")
    named, places = read_pairs("model", models), read_pairs("--audio", audio)
    states = read_pairs("--optimizer", optimizer)
    if adam and ((kinds or ["fisher"]) != ["fisher"] or every_domain or base):
        raise ConfigError("--fisher adam makes the Fisher alone, of each model by itself: leave other kinds and options out.")
    if not adam and (optimizer or utterances_per_step or gradient_norm):
        raise ConfigError("--optimizer, --utterances-per-step and --gradient-norm go with --fisher adam: add it.")
    chosen, folder = find_device(device), output.expanduser()
    with console_logging(Console(stderr=True)), ProgressView() as view:
        if adam:
            # What is made directly goes beside it, to be compared with.
            found = optimizer_statistics(named, folder, states, utterances_per_step, gradient_norm)
            named = {name: source for name, source in named.items() if name in places}
            folder, settings = folder / DIRECT, settings.model_copy(update={"kinds": ("fisher",)})
        else:
            found = {}
        corpora = {
            name: read_corpus(
                place, domain=name, cache=cache.expanduser() / "corpora", training=True, on_progress=view.task(f"reading {name}")
            )
            for name, place in places.items()
        }
        jobs = plan_statistics(
            named, corpora, folder, settings, every_domain=every_domain, base=base, device=chosen, language=language
        )
        count = workers or (processor_count() if chosen == "cpu" else 1)
        found |= run_statistics(jobs, workers=count, view=view, threads=threads)
    for place, headers in found.items():
        for kind, header in headers.items():
            variant = f", {header.variant}" if header.variant else ""
            skipped = f", {len(header.skipped)} skipped" if header.skipped else ""
            typer.echo(f"{place / kind}.safetensors  {header.utterances} utterances, {header.seconds:.0f} s{variant}{skipped}")
    for name, source in named.items() if adam else ():
        typer.echo(f"{name}: {compare_with_direct(source, output.expanduser(), name)}")
