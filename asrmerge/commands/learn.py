"""`asrmerge merge` of a recipe whose coefficients are learnt from audio."""

from __future__ import annotations

from pathlib import Path

import typer

from asrmerge.learning.recipe import LearningRecipe


def learn(recipe: LearningRecipe, output: Path, workers: int | None) -> None:
    """Learn and merge, with progress on standard error; what came of it on standard output."""
    from rich.console import Console

    from asrmerge.commands.console import console_logging
    from asrmerge.learning.merging import merge_learned_to_folder
    from asrmerge.progress import ProgressView

    with console_logging(Console(stderr=True)), ProgressView() as view:
        learned = merge_learned_to_folder(recipe, output, view=view, workers=workers)
    typer.echo(f"{recipe.method}: {learned.summary}")
    typer.echo(f"merged model  {output}")
