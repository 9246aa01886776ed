"""`asrmerge repair`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from asrmerge.commands.pairs import read_pairs
from asrmerge.errors import ConfigError


def repair(
    merged: Annotated[str, typer.Argument(help="The merged model: a folder, hub id, embedded:NAME or base+adapter.")],
    output: Annotated[Path, typer.Argument(help="Folder for the repaired checkpoint.")],
    experts: Annotated[list[str], typer.Option("--expert", "-e", help="NAME=MODEL: a fine-tune that was merged.")],
    audio: Annotated[
        list[str],
        typer.Option(
            "--audio", "-a", help="NAME=[FORMAT:]PLACE[,option=value…]: what the expert NAME and the merge are to hear."
        ),
    ],
    weights: Annotated[
        list[str] | None, typer.Option("--weight", "-w", help="NAME=SHARE of an expert in the means; by default all equal.")
    ] = None,
    utterances: Annotated[int, typer.Option(help="At most so many of each domain's audio, drawn by the seed.")] = 100,
    groups: Annotated[
        list[str] | None,
        typer.Option("--group", help="Repair this group of the model; one more. By default all but the head and the embedding."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", help="Leave maps with this part in their names, such as k_proj; one more.")
    ] = None,
    lower: Annotated[float, typer.Option(help="The least factor of a unit.")] = 0.5,
    upper: Annotated[float, typer.Option(help="The greatest factor of a unit.")] = 2.0,
    padding_every: Annotated[
        int, typer.Option(help="Of the silence that fills a window, every so-and-so-many-th position counts; 0: none.")
    ] = 10,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = "auto",
    language: Annotated[str | None, typer.Option(help="What is spoken, for multilingual Whisper.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for audio of data sets.")] = Path("~/.cache/asrmerge"),
) -> None:
    """Give a merged model's activations the means and spreads of its experts', unit by unit (REPAIR)."""
    from rich.console import Console

    from asrmerge.commands.console import console_logging
    from asrmerge.progress import ProgressView
    from asrmerge.recognizers.transcriber import find_device
    from asrmerge.repairing.repairing import choose_models, repair_to_folder
    from asrmerge.repairing.settings import RepairSettings
    from asrmerge.speech.corpora import read_corpus
    from asrmerge.validation import validate

    bounds = {"lower": lower, "upper": upper, "groups": tuple(groups or ()), "skip": tuple(skip or ())}
    given = {"utterances": utterances, "padding_every": padding_every, "seed": seed, **bounds}
    settings = validate(RepairSettings, given, "repair")
    named, places = read_pairs("--expert", experts), read_pairs("--audio", audio)
    shares = _read_numbers(read_pairs("--weight", weights))
    choose_models(merged, named, dict.fromkeys(places, ()), shares)  # whether the names fit, before audio is read
    chosen = find_device(device)
    with console_logging(Console(stderr=True)), ProgressView() as view:
        corpora = {
            name: read_corpus(place, domain=name, cache=cache.expanduser() / "corpora", on_progress=view.task(f"reading {name}"))
            for name, place in places.items()
        }
        models = choose_models(merged, named, corpora, shares, device=chosen, language=language)
        found = repair_to_folder(models, output, settings, view)
    typer.echo(f"repaired: {found.summary}")
    if found.not_heard:
        typer.echo(f"left as they were, because they are not computed by themselves: {', '.join(found.not_heard)}")
    typer.echo(f"merged model  {output}")


def _read_numbers(pairs: Mapping[str, str]) -> dict[str, float]:
    numbers = {}
    for name, text in pairs.items():
        try:
            numbers[name] = float(text)
        except ValueError:
            raise ConfigError(f"--weight {name}={text}: {text!r} is no number; give one, such as 0.3.") from None
        if not 0 <= numbers[name] < float("inf"):
            raise ConfigError(f"--weight {name}={text}: give a number of 0 or more.")
    return numbers
