"""Where the time of a train step goes, by kind of operation, from a profiler's trace of ten steps."""

import gzip
import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from _machine.clock import median_seconds
from _machine.job import Job
from _machine.steps import Step, config_of

MOVES = r"(^|_)(copy|transpose)([._\-]|$)|nchwToNhwc|nhwcToNchw|memcpy|memset"  # in the name of an operation itself
KINDS = (  # the first whose pattern is found, in the name that JAX gave the operation or in that of its kernel
    ("random numbers", r"threefry|random|bernoulli|randint|_uniform|_normal|erf_inv|rng"),
    ("optimiser and averages", r"/(optimizer|ema)/"),
    ("norms", r"/norm(_\w+)?/"),
    ("attention", r"attention/"),
    ("convolutions", r"conv_general_dilated|/conv(_\w+)?/|cudnn|fprop|dgrad|wgrad|convolution"),
    ("dense layers", r"dot_general|gemm|/dense_|/emb/|/shortcut/"),
)
COPIES, OTHER, IDLE = "copies and transposes", "everything else", "idle under the profiler"


def measure(job: Job) -> None:
    """Adds the share of each kind, and the largest operations."""
    dtype, batch = job.dtypes[0], 8 if job.small else 128
    config = config_of("cifar10", dtype=dtype, batch_size=batch)
    step, count = Step(config), 2 if job.small else 10
    jax.block_until_ready(step())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            metrics = None
            for _ in range(count):
                metrics = step()
            jax.block_until_ready((step.state, metrics))
        (file,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    names = operation_names(step.compiled.as_text() or "")
    busy, own, span = device_times(events)
    by_kind, largest = Counter(), Counter()
    for operation, microseconds in own.items():
        path = names.get(operation, names.get(operation.replace("_", "."), ""))
        by_kind[kind_of(operation, path)] += microseconds
        largest[f"{operation}: {path}" if path else operation] += microseconds
    total = sum(own.values())
    of_each = [{"operation": name, "us": us, "path": names.get(name, "")} for name, us in own.most_common()]
    (job.out / "operations.json").write_text(json.dumps({"steps": count, "span us": span, "operations": of_each}))
    if not total:
        job.note("the trace does not contain any operation of the device")
        return
    idle = max(0.0, 1 - busy / span)
    for kind, microseconds in by_kind.most_common():
        share = (1 - idle) * microseconds / total
        job.add(kind, **{"share": share, "ms/step": share * span / 1000 / count})
    job.add(IDLE, **{"share": idle, "ms/step": idle * span / 1000 / count})
    alone = 1000 * median_seconds(step, window=0.0 if job.small else 0.5, windows=3)
    job.add("the step without the profiler", **{"ms/step": alone})
    job.note(f"{count} steps of cifar10, {dtype}, batch {batch}: {span / 1000 / count:.2f} ms each under the profiler")
    job.note("on a GPU each operation is launched separately here, while other parts launch graphs of many operations")
    job.note("a fused operation counts as the kind of its last part, or as a transpose if it contains one")
    for operation, microseconds in largest.most_common(12):
        job.note(f"{microseconds / total:.1%} {operation}")
    job.note("operations.json contains all of them")


def kind_of(operation: str, path: str) -> str:
    """The kind of an operation, from the name that JAX gave it (its path through the program) or its own."""
    if re.search(MOVES, operation, re.IGNORECASE):
        return COPIES
    return next((kind for kind, pattern in KINDS if re.search(pattern, path or operation)), OTHER)


def operation_names(program: str) -> dict[str, str]:
    """The path that JAX gave each instruction of a compiled program, under its name and its kernel's.

    A fusion has the path of the product or convolution in it; without either, its own or that of its last part.
    """
    paths, inside, computation = {}, defaultdict(list), ""
    for line in program.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            computation = head.group(1)
        if not (found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line)):
            continue
        instruction, rest = found.groups()
        path = re.search(r'op_name="([^"]*)"', rest)
        called = re.search(r"calls=%?([\w.\-]+)", rest)
        parts = inside[called.group(1)] if called else []
        heavy = [part for part in parts if re.search("conv_general_dilated|dot_general", part)]
        name = path.group(1) if path and not heavy else (heavy or parts or [""])[-1]
        if name:
            paths[instruction] = name
            inside[computation].append(name)
    return paths | {re.sub(r"[.\-]", "_", instruction): name for instruction, name in paths.items()}


def device_times(events: Iterable[dict[str, Any]]) -> tuple[float, Counter[str], float]:
    """Adds up a profiler trace of one device, in microseconds.

    Returns:
      The time in which any operation ran, the time of each operation without the operations inside it, and the time
      from the begin of the first operation to the end of the last.
    """
    events = list(events)
    processes = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    found = sorted((name, pid) for pid, name in processes.items() if name.startswith("/device:"))
    devices = {pid for _, pid in found[:1]}  # the first; the part runs on it alone
    lanes = defaultdict(list)
    for event in events:
        place = (event.get("pid"), event.get("tid"))
        if event.get("ph") != "X":
            continue
        if event["pid"] in devices:
            wanted = re.match(r"Stream|XLA Ops", threads.get(place, ""))
        else:
            wanted = not devices and "hlo_op" in event.get("args", {})
        if wanted:
            name = event.get("args", {}).get("hlo_op") or event["name"]
            lanes[place].append((event["ts"], event["ts"] + event["dur"], name))
    own = Counter()
    for lane in lanes.values():
        own.update(_own_times(lane))
    ends = [(begin, end) for lane in lanes.values() for begin, end, _ in lane]
    span = max((end for _, end in ends), default=0.0) - min((begin for begin, _ in ends), default=0.0)
    return _covered(ends), own, span


def _own_times(lane: list[tuple[float, float, str]]) -> Counter[str]:
    """The time of each operation `(begin, end, name)` of a lane, without the operations that run inside it."""
    own, open_ones = Counter(), []
    for begin, end, name in sorted(lane, key=lambda event: (event[0], -event[1])):
        while open_ones and open_ones[-1][0] <= begin:
            open_ones.pop()
        if open_ones:
            # The stubs of Counter know only whole numbers.
            own[open_ones[-1][1]] -= min(end, open_ones[-1][0]) - begin  # pyrefly: ignore[unsupported-operation]
        own[name] += end - begin  # pyrefly: ignore[unsupported-operation]
        open_ones.append((end, name))
    return own


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
