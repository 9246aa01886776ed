"""Time ``asrmerge merge`` beside mergekit's ``mergekit-pytorch``: same inputs, same output dtype, one run.

    python scripts/bench_merge.py --work-dir build/bench --check --json small-warm.json
    python scripts/bench_merge.py --work-dir build/bench --cold --json small-cold.json
    python scripts/bench_merge.py --work-dir build/bench --shape large --repeats 1 --json large.json

The models have random weights in the shape of Whisper-small (a base and three experts in float32, 1 GB each) or Whisper-large
(a base and five experts in float16, 3.1 GB each; only our side runs there); they are made once. Every merge is a process of its
own, timed from its start to its end, imports included. The floor reads the same inputs and writes one output without any
arithmetic, in two threads. Linux only; mergekit comes with ``pip install 'asrmerge[test]'``.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from threading import Event
from typing import Any

# No import of torch here: Linux counts the memory of the parent, at the time it starts a child, as the child's own peak.

PIECE = 8 << 20  # bytes that the floor reads at once
FLOOR_THREADS = 2
WEIGHTS = "model.safetensors"
TOOLS = ("ours", "mergekit", "floor")
COMMANDS = {  # of Python; settings and output follow
    "ours": ["-m", "asrmerge.cli", "merge"],
    "mergekit": ["-c", "from mergekit.scripts.merge_raw_pytorch import main; main()"],
    "floor": [__file__, "--floor"],
}
SHAPES = {  # model width, layers of encoder and decoder, heads, feed-forward width, vocabulary, mel bands; experts and dtype
    "tiny": ((64, 2, 2, 128, 500, 80), 3, "float32"),
    "small": ((768, 12, 12, 3072, 51865, 80), 3, "float32"),
    "large": ((1280, 32, 20, 5120, 51866, 128), 5, "float16"),
}
BASE_STD, CHANGE_STD = 0.02, 0.001  # so that the changes are larger than those of a gentle fine-tune and survive float16


@dataclass(frozen=True)
class Case:
    """One row: a method, which has one name in both, with parameters that ask both for the same work."""

    name: str  # of the method, then what tells rows apart
    parameters: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    weight: float = 0.5  # of every expert
    base: bool = True
    experts: int | None = None  # the first few; None is all
    comparable: bool = True  # whether both outputs should agree

    @property
    def method(self) -> str:
        return self.name.split()[0]


CASES = (
    Case("linear", base=False),
    Case("task_arithmetic"),
    Case("ties (tensor)", {"density": 0.2, "normalize": True}, {"scope": "tensor"}),
    Case("ties (model)", {"density": 0.2, "normalize": True}, {"scope": "model"}, comparable=False),  # mergekit: by tensor
    Case("dare_linear", {"density": 0.5}, comparable=False),
    Case("dare_ties", {"density": 0.5, "normalize": False}, comparable=False),
    Case("della", {"density": 0.5, "epsilon": 0.15, "normalize": True}, comparable=False),
    Case("karcher", base=False),
    Case("model_stock"),
    Case("sce", ours={"density": 0.5}, theirs={"select_topk": 0.5}, weight=1.0),  # mergekit's has no weights
    Case("breadcrumbs", {"density": 0.15, "gamma": 0.01}),
    Case("slerp", theirs={"t": 0.5}, base=False, experts=2),
)


@dataclass(frozen=True)
class Run:
    """One process. ``own`` is its peak memory without mapped files, sampled; ``cached`` the inputs' share in the page cache;
    ``processors`` the seconds of all processors together, which other work on the machine changes least."""

    case: str
    tool: str
    seconds: float
    processors: float
    peak: int
    own: int
    cached: float
    flush: float  # seconds that sync took afterwards
    error: str | None


def main() -> None:
    if sys.argv[1:2] == ["--floor"]:
        return _copy_without_arithmetic(json.loads(Path(sys.argv[2]).read_text()), sys.argv[3])
    arguments = _arguments()
    # Children inherit it, and both tools take as many threads as there are processors.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    os.environ["OMP_NUM_THREADS"] = cores = str(len(os.sched_getaffinity(0)))
    tools = [tool for tool in TOOLS if not (arguments.ours_only and tool == "mergekit")]
    versions = ", ".join(f"{name} {version(name)}" for name in ("asrmerge", *tools[1:-1], "torch"))
    load, (_, experts, dtype) = os.getloadavg()[0], SHAPES[arguments.shape]
    tiny, models = (_prepare(shape, arguments.work_dir) for shape in ("tiny", arguments.shape))
    scratch = arguments.work_dir.resolve() / "runs"
    loading = [_run(CASES[0], tool, tiny, "float32", scratch, arguments) for tool in tools if tool != "floor"]
    runs: list[Run] = []
    differences: dict[str, tuple[float, float]] = {}
    for case in [case for case in CASES if case.method in arguments.methods]:
        for repeat, tool in itertools.product(range(arguments.repeats), tools):
            runs.append(run := _run(case, tool, models, dtype, scratch, arguments))
            print(f"{case.name} {repeat + 1}/{arguments.repeats} {tool}: {run.error or round(run.seconds, 2)}", file=sys.stderr)
        failed = any(run.error for run in runs if run.case == case.name)
        if arguments.check and case.comparable and not failed and "mergekit" in tools:
            differences[case.name] = _in_child(_compare, scratch / "ours", scratch / "mergekit")
    shutil.rmtree(scratch)
    parameters = (models[0] / WEIGHTS).stat().st_size / {"float32": 4e6, "float16": 2e6}[dtype]
    cached = " to ".join(dict.fromkeys(f"{share([run.cached for run in runs]):.0%}" for share in (min, max)))
    libraries = ", ".join(f"{run.tool} {run.seconds:.2f} s" for run in loading)
    about = (
        f"{versions}; cores used: {cores}; Whisper-{arguments.shape} shape, {parameters:.1f} M parameters, base and {experts} "
        f"experts in {dtype} (slerp: 2 experts); page cache {'cold (posix_fadvise)' if arguments.cold else 'warm'}, {cached} of "
        f"the inputs in it before each run; medians of {arguments.repeats}; load average before {load:.1f}; mergekit-pytorch "
        f"{arguments.mergekit_options}; a tiny model, that is loading the libraries, takes {libraries}."
    )
    if arguments.json:
        content = {"about": about, "differences": differences, "loading": [asdict(run) for run in loading]}
        arguments.json.write_text(json.dumps(content | {"runs": [asdict(run) for run in runs]}, indent=2) + "\n")
    print(_report(about, runs, differences))


def _run(case: Case, tool: str, models: Sequence[Path], dtype: str, scratch: Path, arguments: argparse.Namespace) -> Run:
    """``models``: the base, then the experts."""
    scratch.mkdir(exist_ok=True)
    output, settings, experts = scratch / tool, scratch / f"{tool}.yaml", models[1:][: case.experts]
    inputs = [model / WEIGHTS for model in (*models[: case.base], *experts)]
    shutil.rmtree(output, ignore_errors=True)
    content = [str(path) for path in inputs] if tool == "floor" else _settings(case, tool, models[0], experts, dtype)
    settings.write_text(json.dumps(content))  # JSON is YAML
    command = [sys.executable, *COMMANDS[tool], str(settings), str(output)]
    command += arguments.mergekit_options.split() if tool == "mergekit" else []
    os.sync()  # what the run before has left to write is not to be written in this one's time
    cached = _set_page_cache(inputs, arguments.cold)
    seconds, processors, peak, own, error = _measure(command, scratch / f"{tool}.log")
    if error is None and not (output.is_file() or (output / WEIGHTS).is_file()):
        error = "no output was written"
    written = time.perf_counter()
    os.sync()
    flush = time.perf_counter() - written
    if tool == "floor" or not arguments.check:  # it would be in the way of the next run's files in the page cache
        output.unlink() if output.is_file() else shutil.rmtree(output, ignore_errors=True)
    return Run(case.name, tool, seconds, processors, peak, own, cached, flush, error)


def _settings(case: Case, tool: str, base: Path, experts: Sequence[Path], dtype: str) -> dict[str, Any]:
    if tool == "ours":
        listed = [{"name": model.name, "model": str(model), "weight": case.weight} for model in experts]
        common = {"method": case.method, "experts": listed, "parameters": case.parameters | case.ours, "dtype": dtype}
        return common | ({"base": str(base)} if case.base else {})
    files = [str(model / WEIGHTS) for model in experts]
    bases = [str(base / WEIGHTS)] if case.base else [files.pop(0)] if case.method == "slerp" else []  # from the base to one model
    parameters = {"weight": case.weight} | case.parameters | case.theirs  # it ignores what a method does not have
    content = {"merge_method": case.method, "models": [{"model": file} for file in files], "parameters": parameters}
    return content | {"dtype": dtype} | ({"base_model": bases[0]} if bases else {})


def _measure(command: Sequence[str], log: Path) -> tuple[float, float, int, int, str | None]:
    """Seconds, seconds of all processors, peak resident bytes, peak of those that are not mapped files, and what went wrong."""
    done = Event()

    def sample_memory(status: Path) -> int:
        peak = 0
        while not done.wait(0.02):
            with suppress(OSError), status.open() as stream:  # it may have ended
                peak = max([peak, *(int(line.split()[1]) * 1024 for line in stream if line.startswith("RssAnon"))])
        return peak

    with log.open("wb") as stream, ThreadPoolExecutor(1) as pool:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        sampled = pool.submit(sample_memory, Path(f"/proc/{process.pid}/status"))
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        done.set()
    process.returncode = code = os.waitstatus_to_exitcode(status)
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    error = f"ended by signal {-code}" if code < 0 else None if code == 0 else said[-1] if said else "no message"
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, sampled.result(), error


def _copy_without_arithmetic(inputs: Sequence[str], output: str) -> None:
    """Read all inputs, and write as much as one of them holds."""
    sources = [os.open(path, os.O_RDONLY) for path in inputs]
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    size = min(os.fstat(source).st_size for source in sources)

    def work(first: int) -> None:
        buffer = memoryview(bytearray(PIECE))
        for offset in range(first * PIECE, size, FLOOR_THREADS * PIECE):
            counts = [os.preadv(source, [buffer], offset) for source in sources]
            os.pwrite(target, buffer[: min(counts)], offset)

    with ThreadPoolExecutor(FLOOR_THREADS) as pool:
        list(pool.map(work, range(FLOOR_THREADS)))
    os.fsync(target)


def _set_page_cache(paths: Sequence[Path], cold: bool) -> float:
    """Drop the files from the page cache, or read them; then the share of their pages that are in there, as mincore says."""
    for path in paths:
        with path.open("rb", buffering=0) as raw:
            if cold:
                os.posix_fadvise(raw.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while not cold and raw.readinto(bytearray(PIECE)):
                pass
    shares = []
    for path in paths:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
            start = ctypes.c_char.from_buffer(mapped)
            failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), pages)
            del start  # else the map cannot be closed
        shares.append(float("nan") if failed else sum(page & 1 for page in pages) / len(pages))
    return statistics.fmean(shares)


def _prepare(shape: str, work_dir: Path) -> list[Path]:
    """The folders of the base and of the experts."""
    folder = work_dir.resolve() / shape
    if not folder.exists():
        print(f"making the models of the shape {shape} in {folder}", file=sys.stderr)
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        _in_child(_make_models, shape, partial)
        partial.rename(folder)
    return sorted(folder.iterdir())


def _make_models(shape: str, folder: Path) -> None:
    """Random weights, tensor by tensor. Half of each expert's change is common to all, so that task vectors have a cosine."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from asrmerge.checkpoints.safetensors_file import SafetensorsWriter, TensorSpec

    (width, layers, heads, ffn, vocabulary, mels), experts, dtype_name = SHAPES[shape]
    settings: dict[str, Any] = {"d_model": width, "vocab_size": vocabulary, "num_mel_bins": mels, "dtype": dtype_name}
    for side in ("encoder", "decoder"):
        settings |= {f"{side}_layers": layers, f"{side}_attention_heads": heads, f"{side}_ffn_dim": ffn}
    settings |= {f"{token}_token_id": 0 for token in ("pad", "bos", "eos", "decoder_start")}  # within a tiny vocabulary
    config = WhisperConfig(architectures=["WhisperForConditionalGeneration"], **settings)
    with torch.device("meta"):  # the names and shapes alone
        tensors = WhisperForConditionalGeneration(config).state_dict()
    dtype: torch.dtype = getattr(torch, dtype_name)
    specs = {key: TensorSpec(dtype, tuple(tensor.shape)) for key, tensor in tensors.items() if key != "proj_out.weight"}
    generator = torch.Generator().manual_seed(0)
    with ExitStack() as stack:
        writers = []
        for model in ("base", *(f"expert{number}" for number in range(1, experts + 1))):
            config.save_pretrained(folder / model)
            writers.append(stack.enter_context(SafetensorsWriter(folder / model / WEIGHTS, specs)))
        for key, spec in specs.items():
            tensor = torch.randn(spec.shape, generator=generator).mul_(BASE_STD)
            writers[0].write(key, tensor.to(dtype))
            # Whisper's encoder positions are frozen, and asrmerge copies them from the base.
            change = 0 if key == "model.encoder.embed_positions.weight" else CHANGE_STD
            tensor += torch.randn(spec.shape, generator=generator).mul_(change)
            for writer in writers[1:]:
                writer.write(key, torch.randn(spec.shape, generator=generator).mul_(change).add_(tensor).to(dtype))


def _compare(ours: Path, theirs: Path) -> tuple[float, float]:
    """The largest |difference| by the tensor's largest |value|, and the share of entries where that is above 1e-5."""
    from safetensors import safe_open

    largest, differing, entries = 0.0, 0, 0
    with safe_open(ours / WEIGHTS, "pt") as one, safe_open(theirs / WEIGHTS, "pt") as other:
        for key in list(other.keys()):
            left, right = one.get_tensor(key), other.get_tensor(key)
            assert left.dtype == right.dtype, f"{key} is {left.dtype} in {ours} and {right.dtype} in {theirs}"
            relative = (left.double() - right.double()).abs_() / max(float(right.abs().max()), 1e-30)
            largest, entries = max(largest, float(relative.max())), entries + relative.numel()
            differing += int((relative > 1e-5).sum())
    return largest, differing / entries


def _report(about: str, runs: Sequence[Run], differences: dict[str, tuple[float, float]]) -> str:
    def median(case: str | None, tool: str, value: str) -> float:
        values = [getattr(run, value) for run in runs if case in (run.case, None) and run.tool == tool and not run.error]
        return statistics.median(values) if values else float("nan")

    columns = "ours s, mergekit s, floor s, mergekit ÷ ours, mergekit ÷ floor, ours ÷ floor, ours CPU s, mergekit CPU s"
    titles = ["method", *columns.split(", "), *(f"{tool} peak GB" for tool in TOOLS[:2])]
    lines = [about, f"\n| {' | '.join(titles)} |", f"|---|{'--:|' * (len(titles) - 1)}"]
    failures = {(run.case, run.tool): run.error for run in runs if run.error}
    for case in dict.fromkeys(run.case for run in runs):
        ours, theirs, floor = (median(case, tool, "seconds") for tool in TOOLS)
        busy = [median(case, tool, "processors") for tool in TOOLS[:2]]
        cells = [f"{value:.2f}" for value in (ours, theirs, floor, theirs / ours, theirs / floor, ours / floor, *busy)]
        cells += [f"{median(case, tool, 'peak') / 1e9:.2f} ({median(case, tool, 'own') / 1e9:.2f})" for tool in TOOLS[:2]]
        shown = ["–" if "nan" in cell else cell for cell in cells]
        shown[:2] = ["fails" if (case, tool) in failures else cell for cell, tool in zip(shown, TOOLS[:2], strict=False)]
        lines.append(f"| {' | '.join([case, *shown])} |")
    flush = [f"{tool} {median(None, tool, 'flush'):.2f} s" for tool in dict.fromkeys(run.tool for run in runs if not run.error)]
    lines += [
        "\nmergekit ÷ floor: how many times faster than mergekit anything could be that reads the inputs and keeps its output."
    ]
    lines += [
        "CPU s: of all processors. Peak: the resident set; in brackets without mapped files, sampled every 20 ms. Our times"
    ]
    lines += [
        f"and the floor's include fsync, which mergekit does not call; a sync afterwards took, in the median: {', '.join(flush)}."
    ]
    if differences:
        lines += ["\n| method | largest difference, by the tensor's largest value | entries over 1e-5 |\n|---|--:|--:|"]
        lines += [f"| {case} | {largest:.1e} | {share:.2%} |" for case, (largest, share) in differences.items()]
    lines += [f"\n{tool} fails at {case}: {error}" for (case, tool), error in failures.items()]
    return "\n".join(lines)


def _in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(dict.fromkeys(case.method for case in CASES))
    parser.add_argument("--work-dir", type=Path, required=True, help="folder of the models; they are reused where present")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=known, help="comma-separated; by default all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the inputs from the page cache before each run")
    parser.add_argument("--ours-only", action="store_true", help="without mergekit, as always in the shape large")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="processors for each process; by default all")
    parser.add_argument("--check", action="store_true", help="compare the outputs of the deterministic methods")
    parser.add_argument("--mergekit-options", default="--quiet", help="as in --mergekit-options='--quiet --async-write'")
    parser.add_argument("--json", type=Path, help="file for every single timing")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.methods) - set(known)):
        parser.error(f"--methods {unknown[0]}: give some of {', '.join(known)}")
    if min(arguments.repeats, arguments.threads) < 1:
        parser.error("--repeats and --threads must be at least 1")
    arguments.ours_only |= arguments.shape == "large"
    return arguments


if __name__ == "__main__":
    main()
