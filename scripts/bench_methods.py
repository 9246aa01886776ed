"""Merge a finished run's experts by every method, each tuned on validation audio, and print their test WER with intervals.

    python scripts/bench_methods.py runs/quickstart
    python scripts/bench_methods.py runs/quickstart-ctc

Of a method, the setting with the lowest macro-average WER on the validation audio is taken: of its main parameter (GRIDS), or of
its scale λ (--scales); the experts have equal weights. Methods that learn from audio (--learn) hear the validation audio too.
Beside them stand the base, each expert, the uniform average and the greedy soup, the run's own merge, whose coefficients were
searched, one model fine-tuned on all domains, and two merges repaired (REPAIR), on the same validation audio. Seconds and peak
memory are those of ``asrmerge merge`` in a process of its own, start included; statistics are collected once, and their cost is
printed below. Everything is kept in RUN/methods: started again, the script goes on where it was. Retention is the share of the
base's accuracy on general speech that is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.config import RunConfig, read_config
from asrmerge.content import resolve_model
from asrmerge.errors import AsrmergeError
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.evaluation.hypotheses import Hypothesis, hypothesis_of
from asrmerge.evaluation.records import DomainScore, Scorecard
from asrmerge.evaluation.scorecard import build_scorecard
from asrmerge.files import hash_content, write_json, write_text
from asrmerge.merging.registry import find_methods
from asrmerge.pipeline.data import GENERAL, DomainData, content_key, prepare_data
from asrmerge.pipeline.evaluating import DecodingOptions, transcribe_models
from asrmerge.pipeline.search_statistics import collect_for_search
from asrmerge.pipeline.stages import StageStore
from asrmerge.pipeline.training import JOINT, train_experts
from asrmerge.progress import ProgressView
from asrmerge.recognizers.recognizer import CachingRecognizer, load_recognizer
from asrmerge.search.candidate import Candidate, soup_of
from asrmerge.search.evaluator import CandidateEvaluator
from asrmerge.search.soup import greedy_soup
from asrmerge.speech.audio import read_utterance
from asrmerge.speech.manifest import write_manifest
from asrmerge.statistics.subject import put_weights

LEFT_OUT = {
    "wise_ft": "takes one expert",
    "slerp": "takes two experts",
    "nuslerp": "takes two experts",
    "passthrough": "puts layers together",
}
GRIDS: dict[str, dict[str, list[Any]]] = {
    "regmean": {"alpha": [0.5, 0.9, 0.98], "scale": [1.0, 1.3, 1.6]},
    "mats": {"iterations": [10, 50], "scale": [1.0, 1.3]},
    "ugm": {"base_scale": [0.0, 100.0, 10000.0], "scale": [0.3, 0.5, 1.0]},
    "fisher": {"floor": [1e-6, 1e-2], "scale": [1.0, 1.5, 2.0]},
}
LEARNT: dict[str, list[dict[str, Any]]] = {
    "learned_soup": [{}],
    "adamerging": [{}],
    "learned_coefficients": [{}],
    "regmean_plus_plus": [{"alpha": 0.9}, {"alpha": 0.98}],
}
UNIFORM, SOUP = "uniform average", "greedy soup"
REPAIRED = (UNIFORM, "task_arithmetic")
Counts = Mapping[str, ErrorCounts]


@dataclass(frozen=True)
class Merged:
    """A merge on disk, the setting that was tuned, and what it cost."""

    name: str
    folder: Path
    setting: str
    seconds: float | None = None
    megabytes: float | None = None


def main() -> None:
    arguments = _arguments()
    bench = Bench(arguments)
    with ProgressView(Console(stderr=True)) as view:
        bench.prepare(view)
        tuned = bench.tune(view)
        merged = list(bench.merge(tuned))
        models = [*bench.references(view), *merged, *bench.repair(merged), *bench.learn()]
        card = bench.evaluate(models, view)
    print(_table(models, card, bench.domains))
    print("\n" + bench.costs())
    print("\nLeft out: " + "; ".join(f"{name} {reason}" for name, reason in LEFT_OUT.items()) + ".")


class Bench:
    """One run's experts, base and audio."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.run: Path = arguments.run
        self.folder = self.run / "methods"
        self.arguments = arguments
        self.config: RunConfig = read_config(self.run / "config.yaml")
        self.base = resolve_model(self.config.base)
        self.domains = list(self.config.domains)
        self.experts = {
            name: resolve_model(source.expert) if source.expert else str(self.run / "experts" / name)
            for name, source in self.config.domains.items()
        }
        self.stages = StageStore(self.folder / "stages")
        self.methods = [name for name in find_methods() if name not in LEFT_OUT and name in (arguments.methods or find_methods())]
        self.hash = hash_content([Checkpoint.open(source).hash() for source in (self.base, *self.experts.values())])
        self.data: dict[str, DomainData] = {}
        self.statistics: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def prepare(self, view: ProgressView) -> None:
        """Audio and statistics."""
        self.data = prepare_data(self.config, view)
        for name in self.domains:
            write_manifest(self._manifest(name), self.data[name].validation[: self.arguments.limit])
        began = time.monotonic()
        search = self.config.search.model_copy(update={"methods": tuple(self.methods)})
        asked = self.config.model_copy(update={"search": search})
        self.statistics = collect_for_search(asked, self.data, self.base, self.experts, self.folder / "statistics", view)
        self._remember("statistics", time.monotonic() - began)

    def tune(self, view: ProgressView) -> list[Candidate]:
        """Of each method, the best setting on the validation audio; and the greedy soup."""
        validation = {name: self.data[name].validation[: self.arguments.limit] for name in self.domains}
        candidates = list(self._candidates())
        known: dict[str, float | None] = {}
        path = self.folder / "validation.json"
        key = hash_content([self.hash, {name: content_key(audio) for name, audio in validation.items()}])
        if path.is_file() and (stored := json.loads(path.read_text()))["key"] == key:
            known = stored["wer"]
        with CandidateEvaluator(
            self.base,
            self.experts,
            validation,
            normalizer=self.config.evaluation.normalizer,
            workers=self.config.workers,
            precision=self.config.arithmetic,
            statistics=self.statistics,
        ) as evaluate:

            def judge(candidate: Candidate) -> float | None:
                if _name(candidate) not in known:
                    try:
                        known[_name(candidate)] = _macro(evaluate(candidate), self.domains)
                    except AsrmergeError as error:
                        print(f"{candidate.label} {dict(candidate.parameters)}: {error}", file=sys.stderr)
                        known[_name(candidate)] = None
                    write_json(path, {"key": key, "wer": known})
                return known[_name(candidate)]

            for number, candidate in enumerate(candidates, start=1):
                judge(candidate)
                view.update("methods on validation audio", number, len(candidates))
            soup = self._soup(judge)
        return [*_best(candidates, known), soup]

    def references(self, view: ProgressView) -> Iterator[Merged]:
        """What merges are compared with."""
        yield Merged("base", Path(self.base), "")
        for name, source in self.experts.items():
            yield Merged(f"{name} expert", Path(source), "")
        if not self.arguments.no_joint:
            joint = self.config.model_copy(update={"joint": True})
            began = time.monotonic()
            trained = train_experts(
                joint, self.data, self.run / "experts", StageStore(self.run / "stages"), view,
                base_hash=Checkpoint.open(self.base).hash(),
            )  # fmt: skip
            self._remember("joint fine-tuning", time.monotonic() - began)
            yield Merged("joint fine-tuning", Path(trained[JOINT]), "all domains at once")
        recipe = yaml.safe_load((self.run / "merged" / "merge_recipe.yaml").read_text())
        yield Merged("searched by asrmerge run", self.run / "merged", f"{recipe['method']}, weights")

    def merge(self, tuned: list[Candidate]) -> Iterator[Merged]:
        """The tuned merges on disk."""
        for candidate in tuned:
            recipe = candidate.recipe(base=self.base, models=self.experts, statistics=self.statistics)
            yield self._merge(candidate.label, recipe.to_yaml(), _setting(candidate.parameters))

    def repair(self, merged: Sequence[Merged]) -> Iterator[Merged]:
        """Merges whose activations are given the experts' means and spreads; seconds are those of the repair."""
        models = [word for name, source in self.experts.items() for word in ("--expert", f"{name}={source}")]
        audio = [word for name in self.experts for word in ("--audio", f"{name}={self._manifest(name)}")]
        for one in merged:
            if one.name in REPAIRED:
                inputs = {"merged": Checkpoint.open(one.folder).hash(), "models": self.hash}
                yield self._made(f"{one.name}, repaired", one.setting, inputs, ["repair", str(one.folder)], [*models, *audio])

    def learn(self) -> Iterator[Merged]:
        """Merges learnt from the validation audio."""
        for name, settings in LEARNT.items():
            if name not in self.arguments.learn:
                continue
            experts = [
                {"name": expert, "model": source, "audio": str(self._manifest(expert))} for expert, source in self.experts.items()
            ]
            for parameters in settings:
                recipe = {
                    "method": name,
                    "base": self.base,
                    "experts": experts,
                    "parameters": parameters,
                    "seed": self.config.seed,
                }
                label = f"{name} {_setting(parameters)}".strip()
                yield self._merge(label, yaml.safe_dump(recipe, sort_keys=False), _setting(parameters))

    def evaluate(self, models: list[Merged], view: ProgressView) -> Scorecard:
        """All models on the test audio."""
        sets = {name: content.test for name, content in self.data.items()}
        sources = {_slug(one.name): str(one.folder) for one in models}
        if self._encoder_is_shared(sources):
            hypotheses = self._transcribe_shared(sources, view)
        else:
            hypotheses = transcribe_models(
                sources,
                {name: Checkpoint.open(source).hash() for name, source in sources.items()},
                sets,
                self.folder / "hypotheses",
                self.stages,
                view,
                workers=self.config.workers,
                options=DecodingOptions(device=self.config.device, precision=self.config.arithmetic),
            ).hypotheses
        card = build_scorecard(
            hypotheses,
            normalizer=self.config.evaluation.normalizer,
            targets=self.domains,
            base="base",
            general=GENERAL if GENERAL in self.data else None,
            experts={name: _slug(f"{name} expert") for name in self.domains},
            seed=self.config.seed,
        )
        card.write(self.folder / "scorecard.json")
        return card

    def costs(self) -> str:
        """What is not part of a merge's seconds."""
        return "Seconds of " + ", ".join(f"{what}: {seconds:.0f}" for what, seconds in self.seconds.items()) + "."

    def _candidates(self) -> Iterator[Candidate]:
        names = dict.fromkeys(self.experts, 1.0)
        share = {name: 1 / len(names) for name in names}
        yield Candidate(UNIFORM, "linear", share, {"normalize": True}, "uniform")
        for name in self.methods:
            fields = find_methods()[name].parameters.model_fields
            grid = GRIDS.get(name, {"scale": self.arguments.scales} if "scale" in fields else {})
            for values in product(*grid.values()):
                yield Candidate(name, name, names, dict(zip(grid, values, strict=True)), "curve")
        for expert in self.experts:
            yield soup_of([expert], list(self.experts))

    def _soup(self, judge: Callable[[Candidate], float | None]) -> Candidate:
        names = list(self.experts)

        def loss(members: Sequence[str]) -> float:
            found = judge(soup_of(members, names))
            return math.inf if found is None else found

        members = greedy_soup({name: loss([name]) for name in names}, loss)
        found = soup_of(members, names)
        return Candidate(f"{SOUP} ({len(members)} of {len(names)})", found.method, found.weights, found.parameters, "soup")

    def _merge(self, name: str, recipe: str, setting: str) -> Merged:
        path = self.folder / f"{_slug(name)}.yaml"
        write_text(path, recipe)
        return self._made(name, setting, {"recipe": recipe, "models": self.hash}, ["merge", str(path)], [])

    def _made(self, name: str, setting: str, inputs: dict[str, Any], before: list[str], after: list[str]) -> Merged:
        """What ``asrmerge BEFORE OUTPUT AFTER`` writes, unless it is there."""
        output, record = self.folder / _slug(name), self.folder / f"{_slug(name)}.json"
        if not self.stages.is_done(f"merge/{_slug(name)}", inputs, [output, record]):
            seconds, megabytes = _measured([*before, str(output), *after])
            write_json(record, {"seconds": seconds, "megabytes": megabytes})
            self.stages.finish(f"merge/{_slug(name)}", inputs)
        return Merged(name, output, setting, **json.loads(record.read_text()))

    def _encoder_is_shared(self, sources: Mapping[str, str]) -> bool:
        """Whether all models have the base's encoder, so that it need not be run for each."""
        recognizer = load_recognizer(self.base)
        if not isinstance(recognizer, CachingRecognizer):
            return False
        inside = {id(parameter) for parameter in recognizer.model.get_encoder().parameters()}
        names = {name: value for name, value in recognizer.model.named_parameters() if id(value) in inside}
        opened = [Checkpoint.open(source) for source in sources.values()]
        return all(torch.equal(one.read(name).to(value), value) for one in opened for name, value in names.items())

    def _transcribe_shared(self, sources: Mapping[str, str], view: ProgressView) -> dict[str, dict[str, list[Hypothesis]]]:
        recognizer = load_recognizer(self.base, precision=self.config.arithmetic)
        assert isinstance(recognizer, CachingRecognizer)
        audio = {
            name: [read_utterance(one, recognizer.sampling_rate) for one in content.test] for name, content in self.data.items()
        }
        states = {name: recognizer.encode(samples) for name, samples in audio.items()}
        found: dict[str, dict[str, list[Hypothesis]]] = {}
        for number, (model, source) in enumerate(sources.items(), start=1):
            put_weights(recognizer, Checkpoint.open(source))
            found[model] = {}
            for name, samples in audio.items():
                texts = recognizer.transcribe(samples, encoder_states=states[name])
                pairs = zip(self.data[name].test, texts, strict=True)
                found[model][name] = [hypothesis_of(one, text) for one, text in pairs]
            view.update("models on test audio", number, len(sources))
        return found

    def _manifest(self, name: str) -> Path:
        return self.folder / "audio" / f"{name}.jsonl"

    def _remember(self, what: str, seconds: float) -> None:
        """The first time counts: later ones find it done."""
        path = self.folder / "seconds.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        self.seconds = {what: seconds, **known} if what not in known else known
        write_json(path, self.seconds)


def _measured(arguments: list[str]) -> tuple[float, float]:
    """Seconds and megabytes of one command in a process of its own."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "asrmerge.cli", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"asrmerge {' '.join(arguments)} failed")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def _best(candidates: list[Candidate], known: Mapping[str, float | None]) -> Iterator[Candidate]:
    tuned = [one for one in candidates if one.kind != "soup"]
    for label in dict.fromkeys(one.label for one in tuned):
        rated = [
            (wer, number) for number, one in enumerate(tuned) if one.label == label and (wer := known[_name(one)]) is not None
        ]
        if rated:
            yield tuned[min(rated)[1]]


def _name(candidate: Candidate) -> str:
    return f"{candidate.label} {json.dumps(dict(candidate.parameters), sort_keys=True)}"


def _setting(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in parameters.items() if not isinstance(value, bool))


def _slug(name: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name).split())


def _macro(counts: Counts, domains: list[str]) -> float:
    return sum(counts[name].wer for name in domains) / len(domains)


def _table(models: list[Merged], card: Scorecard, domains: list[str]) -> str:
    columns = [*domains, *([GENERAL] if GENERAL in card.models["base"].domains else [])]
    titles = [name.capitalize() for name in domains] + ["Macro average"] + [name.capitalize() for name in columns[len(domains) :]]
    if GENERAL in columns:
        titles.append("Retention")
    lines = [
        "| Model | Setting | " + " | ".join(titles) + " | s | MB |",
        "| --- | --- |" + " ---: |" * (len(titles) + 2),
    ]

    def macro(one: Merged) -> float:
        score = card.models[_slug(one.name)]
        return sum(score.domains[name].wer for name in domains) / len(domains)

    for one in sorted(models, key=macro):
        score = card.models[_slug(one.name)]
        figures = [_figure(score.domains[name]) for name in columns]
        figures.insert(len(domains), f"{100 * macro(one):.1f}")
        kept = score.domains[GENERAL].retention if GENERAL in columns else None
        figures += [] if GENERAL not in columns else ["–" if kept is None or kept.value is None else f"{100 * kept.value:.1f} %"]
        cost = ["–", "–"] if one.seconds is None else [f"{one.seconds:.1f}", f"{one.megabytes:.0f}"]
        lines.append(f"| {one.name} | {one.setting} | " + " | ".join([*figures, *cost]) + " |")
    return "\n".join(lines)


def _figure(score: DomainScore) -> str:
    low, high = score.ci
    return f"{100 * score.wer:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument(
        "--learn", nargs="*", default=list(LEARNT), help="methods that learn from audio; none after a bare --learn"
    )
    parser.add_argument("--scales", type=float, nargs="+", default=[0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5])
    parser.add_argument("--limit", type=int, help="utterances of each domain's validation audio to tune on")
    parser.add_argument("--no-joint", action="store_true", help="don't fine-tune one model on all domains")
    return parser.parse_args()


if __name__ == "__main__":
    main()
