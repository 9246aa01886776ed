"""`asrmerge export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[str, typer.Argument(help="A Whisper: a folder, a hub id or embedded:NAME.")],
    output: Annotated[Path, typer.Argument(help="Folder for the exported model, which transcribe takes as MODEL.")],
    quantization: Annotated[
        str, typer.Option("--quantization", "-q", help="Of the weights: int8, int8_float16, int16, float16, bfloat16, float32, …")
    ] = "int8",
    language: Annotated[str | None, typer.Option(help="What a multilingual model writes unless told otherwise.")] = None,
) -> None:
    """Convert a Whisper for CTranslate2: smaller, and faster on many processors (needs the extra "export")."""
    from rich.console import Console

    from asrmerge.commands.console import console_logging
    from asrmerge.content import resolve_model

    source = resolve_model(model)
    with console_logging(Console(stderr=True)):
        from asrmerge.recognizers.exporting import export_whisper

        export_whisper(source, output, quantization=quantization, language=language)
    typer.echo(f"exported model {output}")
