"""The command line. Exit codes: 0 done, 1 a gate failed, 2 bad input or configuration, 130 interrupted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from asrmerge import __version__
from asrmerge.commands.evaluate import evaluate
from asrmerge.commands.export import export
from asrmerge.commands.inspect import inspect
from asrmerge.commands.pairs import read_pairs
from asrmerge.commands.repair import repair
from asrmerge.commands.search import search
from asrmerge.commands.stats import stats
from asrmerge.commands.transcribe import transcribe
from asrmerge.errors import AsrmergeError

_INTERRUPTED = 130
app = typer.Typer(
    name="asrmerge",
    help="Merge domain fine-tunes of a speech recogniser into one model, tuned and proved by word error rate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"asrmerge {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Merge domain fine-tunes of a speech recogniser into one model, tuned and proved by word error rate."""


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A run's YAML file, or the name of a shipped one such as quickstart.")],
    define: Annotated[list[str] | None, typer.Option("--define", "-D", help="NAME=VALUE for ${NAME} in the file.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder, in place of the configuration's.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes, in place of the configuration's.")] = None,
) -> None:
    """Fine-tune experts, search the merge by WER, merge, evaluate, report. Run again to go on where it stopped."""
    from rich.console import Console

    from asrmerge.commands.console import console_logging, file_logging
    from asrmerge.config import read_config

    settings = read_config(config, read_pairs("--define", define))
    changes = {"output": None if output is None else str(output), "workers": workers}
    settings = settings.model_copy(update={name: value for name, value in changes.items() if value is not None})
    folder = Path(settings.output).expanduser()
    command = shlex.join(["asrmerge", *sys.argv[1:]])
    with console_logging(Console(stderr=True)), file_logging(folder / "log.txt") as log:
        from asrmerge.pipeline.run import run_pipeline
        from asrmerge.progress import ProgressView
        from asrmerge.report.markdown import markdown_table

        with ProgressView() as view:
            result = run_pipeline(settings, command=command, view=view, on_folder=log)
    typer.echo(markdown_table(result.report.scorecard, result.report.models))
    for title, name in (("merged model", "merged"), ("scorecard", "scorecard.json"), ("report", "report.html")):
        typer.echo(f"{title:13} {folder / name}")


for command in (stats, search, repair, evaluate, transcribe, export):
    app.command()(command)


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML: method, base, experts, parameters; or mergekit's.")],
    output: Annotated[Path, typer.Argument(help="Folder for the merged checkpoint.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; by default one per processor.")] = None,
) -> None:
    """Merge checkpoints, or LoRA adapters, by a recipe into a folder that from_pretrained loads."""
    from asrmerge.adapters.recipe import AdapterRecipe, is_adapter_recipe, merge_adapters_to_folder
    from asrmerge.learning.recipe import LearningRecipe, is_learning_recipe
    from asrmerge.merging.engine import merge_to_folder
    from asrmerge.merging.recipe import Recipe, read_yaml
    from asrmerge.progress import ProgressView

    content = read_yaml(recipe)
    if is_adapter_recipe(content):
        adapters = AdapterRecipe.from_content(content, str(recipe))
        merge_adapters_to_folder(adapters, output)
        typer.echo(f"merged {'adapter' if adapters.output == 'adapter' else 'model  '} {output}")
        return
    if is_learning_recipe(content):
        from asrmerge.commands.learn import learn

        learn(LearningRecipe.from_content(content, str(recipe)), output, workers)
        return
    checked = Recipe.from_content(content, str(recipe))
    with ProgressView() as view:
        merge_to_folder(checked, output, workers=workers, on_progress=view.task("merging"))
    typer.echo(f"merged model  {output}")


app.command()(inspect)


@app.command()
def align(
    model: Annotated[str, typer.Argument(help="A fine-tune that inspect calls a permutation of its base.")],
    output: Annotated[Path, typer.Argument(help="Folder for the aligned checkpoint.")],
    base: Annotated[str, typer.Option("--base", "-b", help="The model whose order it gets.")],
) -> None:
    """Put units and attention heads where the base has them; the model computes what it did before."""
    from asrmerge.inspection.aligning import align_to_folder
    from asrmerge.progress import ProgressView

    with ProgressView() as view:
        align_to_folder(model, base, output, view.task("matching"))
    typer.echo(f"aligned model {output}")


@app.command()
def methods(name: Annotated[str | None, typer.Argument(help="Explain this method.")] = None) -> None:
    """List the merge methods, for models and for LoRA adapters, or explain one: formula, source, parameters."""
    from asrmerge.catalogue import describe_method, list_methods

    typer.echo(list_methods() if name is None else describe_method(name))


@app.command()
def domains() -> None:
    """List the shipped domains."""
    from asrmerge.content import shipped_domains
    from asrmerge.speech.domains import load_domain

    for name in shipped_domains():
        domain = load_domain(name)
        typer.echo(f"{name:14} {len(domain.terms):4} terms  {domain.settings.description}")


def main() -> None:
    """Run the command line; every expected error is one sentence on standard error."""
    try:
        code = app(standalone_mode=False) or 0  # typer from 0.20 on returns 130 for Ctrl-C, earlier ones raise Abort
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except AsrmergeError as error:
        typer.echo(f"asrmerge: {error}", err=True)
        code = error.exit_code
    except typer.Exit as error:
        code = error.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        typer.echo(f"asrmerge: {error.filename}: {error.strerror}; give another folder, or make room or rights for it.", err=True)
        code = 2
    except Exception as error:  # click's own usage errors are not exported by typer
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        code = 2
    if code == _INTERRUPTED:
        typer.echo("interrupted; run the same command again to go on", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
