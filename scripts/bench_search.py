"""Search strategies on a finished run's experts: macro-average WER on the test audio against utterances decoded.

    python scripts/bench_search.py runs/quickstart
    python scripts/bench_search.py runs/quickstart-ctc --strategies auto tpe --seeds 1

Plain strategies evaluate --trials candidates on all of the validation audio; ``auto`` has the budget that it has by default, the
utterances of ten such evaluations. CMA-ES is set as mergekit-evolve sets it (σ = 1/6, 100 evaluations), and searches one method
(--cmaes-method); the others search all of --methods. What each strategy would return after so many utterances is merged and
evaluated on the test audio. Base, experts and uniform average are in every search, and count. Transcripts are kept in
RUN/search-benchmark: what one strategy has decoded is not decoded again for another, and counts for both.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from asrmerge.config import RunConfig, read_config
from asrmerge.content import resolve_model
from asrmerge.errors import AsrmergeError
from asrmerge.evaluation.normalizers import normalizer
from asrmerge.files import hash_content, write_json, write_text
from asrmerge.pipeline.data import GENERAL, content_key, prepare_data
from asrmerge.progress import ProgressView
from asrmerge.report.search_charts import vertical_axis
from asrmerge.report.standalone import standalone_svg
from asrmerge.report.svg import Scale, drawing, marker, path, text
from asrmerge.search.blocks import ALL_AT_ONCE, GROWING, plan_audio
from asrmerge.search.candidate import Candidate, CandidateError, scaled_sum
from asrmerge.search.evaluator import CandidateEvaluator
from asrmerge.search.hypothesis_cache import HypothesisCache
from asrmerge.search.listening import Listener
from asrmerge.search.outcome import pooled
from asrmerge.search.planning import plan_search
from asrmerge.search.result import SearchResult
from asrmerge.search.scoring import one_thread
from asrmerge.search.study import run_search
from asrmerge.search_settings import SearchSettings

STRATEGIES: dict[str, dict[str, Any]] = {
    "auto": {"strategy": "auto"},
    "random": {"strategy": "random"},
    "grid": {"strategy": "grid"},
    "tpe": {"strategy": "tpe"},
    "cmaes": {"strategy": "cmaes"},
    "surface": {"strategy": "surface"},
}


def main() -> None:
    arguments = _arguments()
    try:
        with ProgressView(Console(stderr=True)) as view:
            bench = Bench(arguments, view)
            if arguments.apply:
                print(bench.apply())
                return
            rows = bench.run()
    except AsrmergeError as error:
        sys.exit(f"bench_search: {error}")
    print(_table(rows))


class Bench:
    """One run's experts, its validation and test audio."""

    def __init__(self, arguments: argparse.Namespace, view: ProgressView) -> None:
        self.arguments, self.view = arguments, view
        self.config: RunConfig = read_config(arguments.run / "config.yaml")
        self.folder: Path = arguments.run / "search-benchmark"
        self.base = resolve_model(self.config.base)
        self.experts = {
            name: resolve_model(source.expert) if source.expert else str(arguments.run / "experts" / name)
            for name, source in self.config.domains.items()
        }
        self.data = prepare_data(self.config, view)
        self.targets = list(self.config.domains)
        self.watched = [GENERAL] if GENERAL in self.data and arguments.watch else []

    def run(self) -> list[dict[str, Any]]:
        """One row per strategy and seed."""
        rows: list[dict[str, Any]] = []
        normalize = normalizer(self.config.evaluation.normalizer)
        validation = {name: self.data[name].validation for name in (*self.targets, *self.watched)}
        test = {name: self.data[name].test for name in self.targets}
        for seed in range(self.arguments.seeds):
            for races in (True, False):
                names = [name for name in self.arguments.strategies if (name == "auto") == races]
                if not names:
                    continue
                plan = plan_audio(validation, seed=seed, fractions=GROWING if races else ALL_AT_ONCE)
                with self._evaluator(plan) as evaluate, HypothesisCache(self._cache("validation", validation)) as known:
                    listener = Listener(evaluate, known, normalize)
                    rows += [self._search(name, seed, listener, evaluate) for name in names]
        plan = plan_audio(test, fractions=ALL_AT_ONCE)
        with self._evaluator(plan) as evaluate, HypothesisCache(self._cache("test", test)) as known:
            listener = Listener(evaluate, known, normalize)
            for number, row in enumerate(rows, start=1):
                row["curve"] = [(used, self._test(listener, one)) for used, one in row.pop("course")]
                self.view.update("test audio", number, len(rows))
        write_json(self.folder / "rows.json", rows)
        write_text(self.folder / "curves.svg", _chart(rows))
        return rows

    def apply(self) -> str:
        """What merging a candidate into the live model costs, beside evaluating it on 100 utterances; one process."""
        pooled_audio = [one for name in self.targets for one in self.data[name].validation][::4][:100]
        plan = plan_audio({"all": pooled_audio}, fractions=ALL_AT_ONCE)
        lines = []
        with CandidateEvaluator(self.base, self.experts, plan, precision=self.config.arithmetic) as evaluate, one_thread():
            scorer = evaluate._pool._scorer  # type: ignore[union-attr]
            for method in self.arguments.methods:
                candidates = [
                    scaled_sum(f"{method} {index}", dict.fromkeys(self.experts, 0.2 + 0.05 * index), method=method)
                    for index in range(6)
                ]
                scorer._apply(candidates[0])  # what a method computes once
                merging, decoding = [], []
                for one in candidates[1:]:
                    began = time.process_time()
                    scorer._apply(one)
                    merging.append(time.process_time() - began)
                    began = time.process_time()
                    evaluate.transcribe([(one, 0)])
                    decoding.append(time.process_time() - began)
                share = statistics.median(a / b for a, b in zip(merging, decoding, strict=True))
                cost = f"{1000 * statistics.median(merging):.0f} ms to merge, {statistics.median(decoding):.2f} s to decode"
                lines.append(f"{method}: {cost} {plan.total} utterances: {100 * share:.1f} %")
        return "\n".join(lines)

    def _search(self, name: str, seed: int, listener: Listener, evaluate: CandidateEvaluator) -> dict[str, Any]:
        methods = [self.arguments.cmaes_method] if name == "cmaes" else self.arguments.methods
        given = {**STRATEGIES[name], "methods": methods, "curve": (), "soup": False}
        if name != "auto":
            given["budget"] = {"candidates": self.arguments.trials}
        total = evaluate.plan.total
        plan = plan_search(
            SearchSettings.model_validate(given),
            experts=list(self.experts), targets=self.targets, watched=self.watched, utterances=total, seed=seed,
        )  # fmt: skip
        storage = self.folder / f"{name}-{seed}.log"
        storage.unlink(missing_ok=True)
        began = time.monotonic()
        done: list[int] = []
        result = run_search(
            plan, listener, evaluate.plan, listener.totals, storage=storage,
            losses=lambda asked: [None if isinstance(one, CandidateError) else one for one in evaluate.losses(asked)],
            on_trial=lambda trial: done.append(1) or self.view.update(f"{name}, seed {seed}", len(done), self.arguments.trials),
        )  # fmt: skip
        ranking = None if result.ranking is None else result.ranking.correlation
        return {
            "strategy": name,
            "seed": seed,
            "decoded": result.spent.utterances,
            "losses": result.spent.losses,
            "seconds": time.monotonic() - began,
            "validation": result.best.objective,
            "best": result.best.candidate.label,
            "loss ranking": ranking,
            "course": _course(result, total),
        }

    def _test(self, listener: Listener, candidate: Candidate) -> float:
        [outcome] = listener([(candidate, 0)])
        assert outcome.scores is not None
        counts = pooled(outcome.scores)
        return math.fsum(counts[name].wer for name in self.targets) / len(self.targets)

    def _evaluator(self, plan: Any) -> CandidateEvaluator:
        return CandidateEvaluator(
            self.base, self.experts, plan,
            normalizer=self.config.evaluation.normalizer, workers=self.config.workers,
            precision=self.config.arithmetic, device=self.config.device,
        )  # fmt: skip

    def _cache(self, what: str, audio: Mapping[str, Sequence[Any]]) -> Path:
        key = hash_content([self.config.arithmetic, {name: content_key(found) for name, found in audio.items()}])
        return self.folder / f"{what}-{key[:16]}.jsonl"


def _course(result: SearchResult, total: int) -> list[tuple[int, Candidate]]:
    """What the search would have returned after so many utterances, where that changes; of a race, at its end."""
    if result.strategy["name"] == "auto":
        return [(result.spent.utterances, result.best.candidate)]
    course, last = [], None
    for number, best in enumerate(result.best_so_far, start=1):
        if best is not None and (best != last or number == len(result.trials)):
            course.append((number * total, result.trials[best].candidate))
            last = best
    return course


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| Strategy | Utterances decoded | Losses | Validation | Test | by seed | Test after a tenth |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    tenth = max(row["decoded"] for row in rows) / 10
    for name in dict.fromkeys(row["strategy"] for row in rows):
        own = [row for row in rows if row["strategy"] == name]

        def mean(what: str, own: Sequence[Mapping[str, Any]] = own) -> float:
            return statistics.mean(row[what] for row in own)

        ends = [100 * row["curve"][-1][1] for row in own]
        early = [[wer for used, wer in row["curve"] if used <= tenth * 1.001][-1:] for row in own]
        at_tenth = f"{100 * statistics.mean(wer for found in early for wer in found):.2f}" if all(early) else "–"
        lines.append(
            f"| {name} | {mean('decoded'):.0f} | {mean('losses'):.0f} | {100 * mean('validation'):.2f} | "
            f"{statistics.mean(ends):.2f} | {', '.join(f'{wer:.2f}' for wer in ends)} | {at_tenth} |"
        )
    return "\n".join(lines)


def _chart(rows: Sequence[Mapping[str, Any]]) -> str:
    """The curves as SVG: a stair per strategy, the mean over seeds from where all have a value; of a race, a mark per seed."""
    width, height = 760.0, 420.0
    ends = [(used, 100 * wer) for row in rows for used, wer in row["curve"][-1:]]
    starts = [(row["curve"][0][0], 100 * row["curve"][0][1]) for row in rows]
    x = Scale(math.log10(min(used for used, _ in (*starts, *ends))), math.log10(max(used for used, _ in ends)), 60, width - 120)
    rates = [wer for _, wer in ends]
    y = Scale(min(rates) - 1, max(rates) + 6, height - 50, 20)
    parts = vertical_axis(y, 60, width - 120, "macro-average test WER, %")
    for power in range(math.ceil(x.low), math.floor(x.high) + 1):
        parts.append(text(x(power), height - 30, f"{10**power}", "tick", "middle"))
    parts.append(text((60 + width - 120) / 2, height - 8, "utterances decoded", "tick", "middle"))
    for number, name in enumerate(dict.fromkeys(row["strategy"] for row in rows)):
        curves = [row["curve"] for row in rows if row["strategy"] == name]
        if name == "auto":
            parts += [
                marker(x(math.log10(used)), y(100 * wer), "diamond", 9, f"mark series-{number}", f"auto {100 * wer:.2f}")
                for [(used, wer)] in curves
            ]
        else:
            places = sorted({used for curve in curves for used, _ in curve if used >= max(one[0][0] for one in curves)})
            means = [100 * statistics.mean([wer for used, wer in one if used <= place][-1] for one in curves) for place in places]
            stair: list[tuple[float, float]] = []
            for place, mean in zip(places, means, strict=True):
                at = (x(math.log10(place)), y(min(mean, y.high)))
                stair += [(at[0], stair[-1][1]), at] if stair else [at]
            parts.append(path(stair, f"series series-{number}"))
        last = statistics.mean(100 * curve[-1][1] for curve in curves)
        parts.append(text(width - 112, 30 + 18 * number, f"{name} {last:.2f}", f"note series-{number}"))
    return standalone_svg(drawing(width, height, "Test WER over utterances decoded", parts, class_="search"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=["auto", "random", "tpe", "cmaes", "grid"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=100, help="candidates of a plain strategy, those of every search included")
    parser.add_argument("--methods", nargs="+", default=SearchSettings().method_names, help="those that a search has by default")
    parser.add_argument("--cmaes-method", default="task_arithmetic")
    parser.add_argument("--apply", action="store_true", help="only time how long merging a candidate takes")
    parser.add_argument("--watch", action="store_true", help="hear general speech, too, as a search with a constraint would")
    return parser.parse_args()


if __name__ == "__main__":
    main()
