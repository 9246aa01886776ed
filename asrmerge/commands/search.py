"""`asrmerge search`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asrmerge.commands.pairs import read_pairs
from asrmerge.errors import ConfigError

if TYPE_CHECKING:  # they bring torch
    from asrmerge.search.result import SearchResult


def search(
    base: Annotated[str, typer.Option("--base", "-b", help="The model that was fine-tuned: a folder, hub id or embedded:NAME.")],
    experts: Annotated[list[str], typer.Option("--expert", "-e", help="NAME=MODEL: a fine-tune.")],
    validation: Annotated[
        list[str],
        typer.Option(
            "--validation",
            "-v",
            help="NAME=[FORMAT:]PLACE[,option=value…]: what merges are judged on. A domain called as an expert counts in the "
            "objective; others, such as general, are watched, for constraints.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder: trials, best recipe, merged model.")] = Path("search"),
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML with the keys of 'search' in a run's configuration.")
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Merge method to search; one more. By default task_arithmetic, tsv_m and iso_c."),
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="auto, surface, tpe, cmaes, gp, nsga2, random or grid.")] = None,
    objective: Annotated[str | None, typer.Option(help="macro, worst or relative (to each domain's expert).")] = None,
    constraints: Annotated[
        list[str] | None, typer.Option("--constraint", help="Such as 'general.wer <= 1.02 * base'; one more.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="Budget: merges that are tried; without races, 100 by default.")
    ] = None,
    utterances: Annotated[
        int | None, typer.Option(min=1, help="Budget: utterances decoded; of auto by default ten times the validation audio.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget: minutes, interrupted runs included.")] = None,
    terms: Annotated[
        list[str] | None, typer.Option("--terms", help="DOMAIN=FILE of key terms, or a shipped domain's name, for term recall.")
    ] = None,
    tests: Annotated[
        list[str] | None, typer.Option("--test", help="NAME=PLACE of a test set: validation audio that is in it is refused.")
    ] = None,
    statistics: Annotated[
        list[str] | None, typer.Option("--statistics", help="NAME=FOLDER of asrmerge stats, of an expert or of the base.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="URL of a database for the trials; by default a journal in the output folder.")
    ] = None,
    merge: Annotated[bool, typer.Option(help="Write the best merge to OUTPUT/merged.")] = True,
    point: Annotated[
        str | None, typer.Option("--pick", help="Of several objectives, merge this point of the front, such as front-2 or knee.")
    ] = None,
    normalizer: Annotated[str, typer.Option(help="whisper, basic, none, a chain such as nfkc+lowercase, …")] = "whisper",
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one per processor.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster that evaluates the candidates, host:port or auto (asrmerge[ray])."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    language: Annotated[str | None, typer.Option(help="What is spoken, for multilingual Whisper.")] = None,
    batch_seconds: Annotated[float, typer.Option(min=1, help="Audio that goes through a model at once; more for a GPU.")] = 60.0,
    cache: Annotated[Path, typer.Option(help="Folder for audio of data sets.")] = Path("~/.cache/asrmerge"),
) -> None:
    """Search the merge with the lowest word error rate, over methods and weights. Run again to go on where it stopped."""
    from rich.console import Console

    from asrmerge.commands.console import console_logging
    from asrmerge.content import resolve_model
    from asrmerge.evaluation.normalizers import normalizer as get_normalizer
    from asrmerge.merging.engine import merge_to_folder
    from asrmerge.pipeline.searching import SearchJob, model_groups, read_domain_terms, search_to_folder
    from asrmerge.pipeline.suite_sets import check_leakage
    from asrmerge.processors import processor_count
    from asrmerge.progress import ProgressView
    from asrmerge.recognizers.computing import fast_precision
    from asrmerge.recognizers.transcriber import find_device
    from asrmerge.search.planning import plan_search
    from asrmerge.search_settings import SearchSettings
    from asrmerge.settings_file import read_settings
    from asrmerge.speech.corpora import read_corpus
    from asrmerge.validation import validate

    models = {name: resolve_model(source) for name, source in read_pairs("--expert", experts).items()}
    places, tested = read_pairs("--validation", validation), read_pairs("--test", tests)
    _refuse_test_splits(places)
    given = dict(read_settings(config, "configs", {})[0]) if config is not None else {}
    budget = {"candidates": candidates, "utterances": utterances, "minutes": minutes}
    changes: dict[str, Any] = {
        "methods": methods,
        "strategy": strategy,
        "objective": objective,
        "constraints": constraints,
        "pick": point,
        "budget": {**given.get("budget", {}), **{name: value for name, value in budget.items() if value is not None}} or None,
    }
    given |= {name: value for name, value in changes.items() if value}
    settings = validate(SearchSettings, given, str(config) if config is not None else "search")
    targets = [name for name in places if name in models] or list(places)
    known_terms = read_domain_terms(read_pairs("--terms", terms), list(places), get_normalizer(normalizer))
    found = read_pairs("--statistics", statistics)
    chosen, folder = find_device(device), output.expanduser()
    with console_logging(Console(stderr=True)), ProgressView() as view:
        corpora = {
            name: read_corpus(place, domain=name, cache=cache.expanduser() / "corpora", on_progress=view.task(f"reading {name}"))
            for name, place in {**places, **{f"test {name}": place for name, place in tested.items()}}.items()
        }
        heard = {name: tuple(corpora[name]) for name in places}
        check_leakage(
            [one for name in places for one in corpora[name]], [one for name in tested for one in corpora[f"test {name}"]]
        )
        plan = plan_search(
            settings,
            experts=list(models),
            targets=targets,
            watched=[name for name in places if name not in targets],
            utterances=sum(map(len, heard.values())),
            seed=seed,
            known_groups=model_groups(resolve_model(base)) if settings.groups else None,
            known_terms=known_terms,
        )
        job = SearchJob(
            base=resolve_model(base),
            experts=models,
            validation=heard,
            normalizer=normalizer,
            terms=known_terms,
            statistics=found,
            workers=workers or (None if ray is not None else processor_count() if chosen == "cpu" else 1),
            ray=ray,
            precision=fast_precision(chosen) if precision == "auto" else precision,  # type: ignore[arg-type]
            device=chosen,
            language=language,
            batch_seconds=batch_seconds,
        )
        result = search_to_folder(job, plan, folder, view, storage, point=settings.pick)
        if merge:
            recipe = result.chosen.candidate.recipe(base=base, models=read_pairs("--expert", experts), statistics=found)
            merge_to_folder(recipe, folder / "merged")
    typer.echo(describe(result))
    if result.objective.further:
        typer.echo(f"front         {folder / 'front.svg'}")
    typer.echo(f"trials        {folder / 'trials.json'}\nbest recipe   {folder / 'best.yaml'}")
    if merge:
        typer.echo(f"merged model  {folder / 'merged'}")


def describe(result: SearchResult) -> str:
    """What a search found, in sentences."""
    from asrmerge.search.findings import findings
    from asrmerge.search.front import front_of

    best = result.best
    assert best.counts is not None and best.objective is not None
    rates = ", ".join(f"{name} {100 * counts.wer:.1f}" for name, counts in best.counts.items())
    lines = [f"best: {best.candidate.label}: {100 * best.objective:.2f} on validation (WER {rates}; seed {result.seed})"]
    for one in result.confirmed:
        heard = "" if one.complete else ", on the audio that both heard"
        lines.append(
            f"  against {one.other}: {100 * one.difference:+.2f} points ({100 * one.low:+.2f} to {100 * one.high:+.2f}{heard})"
        )
    if result.objective.further:
        for name, trial in front_of(result).items():
            figures = ", ".join(f"{100 * value:.2f}" for value in (trial.objective or 0.0, *trial.judgement.further))  # type: ignore[union-attr]
            picked = ", picked" if trial.number == result.picked else ""
            lines.append(f"  {name}: {figures}  {trial.candidate.label}{picked}")
    return "\n".join([*lines, *findings(result)])


def _refuse_test_splits(places: Mapping[str, str]) -> None:
    for name, place in places.items():
        if "split=test" in place.split(","):
            raise ConfigError(
                f"--validation {name}={place}: a merge that is tuned on a test set proves nothing on it; give a validation split."
            )
