"""`asrmerge transcribe`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

logger = logging.getLogger(__name__)


def transcribe(
    model: Annotated[str, typer.Argument(help="A folder, also one of asrmerge export; a hub id; or embedded:NAME.")],
    audio: Annotated[list[str], typer.Argument(help="Audio files, folders, patterns in quotes, manifests.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file, or a folder for a file per recording; else standard output.")
    ] = None,
    format: Annotated[str | None, typer.Option("--format", "-f", help="text, jsonl, trn or srt; else by the ending.")] = None,
    language: Annotated[str | None, typer.Option(help="What is spoken, for multilingual Whisper: a name or code.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; for exported models CTranslate2's compute types.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; by default one per processor.")] = None,
    batch_seconds: Annotated[float, typer.Option(min=1, help="Audio that goes through the model together.")] = 60.0,
) -> None:
    """Write what recordings say as text, JSON lines, trn or subtitles; those that can't be read are named, with exit code 2."""
    from rich.console import Console

    from asrmerge.commands.console import console_logging
    from asrmerge.content import resolve_model
    from asrmerge.progress import ProgressView
    from asrmerge.transcribing.registry import get_format
    from asrmerge.transcribing.sources import find_recordings
    from asrmerge.transcribing.writing import transcript_output

    chosen = get_format(format, output)
    source = resolve_model(model)
    recordings = find_recordings(audio)
    # A live bar and text in one terminal would run into each other.
    shared = output is None and sys.stdout.isatty()
    console = Console(stderr=True, force_terminal=False if shared else None)
    failed = 0
    with (
        transcript_output(output, chosen, recordings, lambda text: typer.echo(text, nl=False)) as write,
        console_logging(console),
        ProgressView(console) as view,
    ):
        import torch

        from asrmerge.recognizers.transcriber import load_transcriber
        from asrmerge.transcribing.transcribing import transcribe_recordings

        if threads is not None:
            torch.set_num_threads(threads)
        recognizer = load_transcriber(source, device=device, precision=precision, language=language)
        for transcript in transcribe_recordings(
            recognizer, recordings, times=chosen.times, batch_seconds=batch_seconds,
            progress=view.task("seconds of audio transcribed"),
        ):  # fmt: skip
            write(transcript)
            if transcript.error is not None:
                failed += 1
                logger.warning("%s", transcript.error)
    if failed:
        typer.echo(f"asrmerge: {failed} of {len(recordings)} recordings could not be read; they are named above.", err=True)
        raise typer.Exit(2)
