"""What a program costs, read from it without running it: its arithmetic, and the bytes that devices send each other."""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator

import jax
import jaxlib._jax as _jaxlib

from ddpm_jax.training.step import TrainSpec

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16}  # of types not named by their bits
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_WHILE = re.compile(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation|called_computations)=\{?%?([\w.-]+)")
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf" = (.+?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\]")


def flops(lowered: jax.stages.Lowered) -> float:
    """The arithmetic of a whole program before it is optimised, on all devices; NaN where it cannot be counted.

    The CPU's part of XLA counts it, because that of a plugin, as those for TPUs and GPUs are, cannot, and because the
    products of an optimised program for GPUs are calls of libraries, which XLA does not count. What is in a loop counts
    once, however often it is run.
    """
    try:
        counter = jax.local_devices(backend="cpu")[0].client
    except RuntimeError:  # JAX_PLATFORMS excludes it
        return math.nan
    program = lowered.compiler_ir("hlo")
    assert program is not None, "every step has this form"
    return _jaxlib.hlo_module_cost_analysis(counter, program.as_hlo_module()).get("flops", math.nan)


def undivided(spec: TrainSpec) -> TrainSpec:
    """The spec of the same step without accumulation, which is a loop: the arithmetic is the same and is counted."""
    return dataclasses.replace(spec, accumulation=1)


def bytes_sent(program: str, num_devices: int) -> tuple[dict[str, float], bool]:
    """The bytes that each device sends to others in one run of a compiled program, by the kind of the exchange.

    An exchange over n devices is counted as around a ring, with the fewest bytes: of an array of S bytes, a device
    sends `2 (n - 1) / n S` to sum it (all-reduce), `(n - 1) / n S` to collect or to scatter it, and S to pass it on.
    What is in a loop counts as often as the loop is run, where XLA knows that, and else once.

    Args:
      program: the text of the compiled program, which is the same for every device.
      num_devices: the number of devices that run it.

    Returns:
      the bytes of each kind of exchange, and whether they are all: that none is in a loop of unknown length.
    """
    sent, times, whole = defaultdict[str, float](float), _repetitions(program), True
    for computation, line in _lines(program):
        if found := _COLLECTIVE.search(line):
            size, kind, started = _sizes(found[1]), found[2], bool(found[3])
            count, known = times.get(computation, (1, True))
            share = count * _share(kind, _group_size(line, num_devices), size, started=started)
            sent[kind] += share
            whole &= known or not share
    return {kind: count for kind, count in sent.items() if count}, whole


def has_loop(program: str, times: int) -> bool:
    """Whether a compiled program, of which this is the text, has a loop of this length or of one that XLA knows not."""
    lengths = [_TRIPS.search(line) for line in program.splitlines() if _WHILE.search(line)]
    return any(found is None or int(found[1]) == times for found in lengths)


def _share(kind: str, n: int, sizes: list[float], *, started: bool) -> float:
    """The bytes that one of n devices sends, by the sizes of the arrays that the exchange returns.

    One that is only started also returns its operands, except for a sum.
    """
    total = sum(sizes)
    if kind == "all-reduce":
        return 2 * (n - 1) / n * total
    if kind == "all-gather":
        return (n - 1) / (n + 1 if started else n) * total
    if kind == "reduce-scatter":
        return (n - 1) / (n + 1 if started else 1) * total
    if kind == "all-to-all":
        return (n - 1) / n * total / (2 if started else 1)
    return sizes[0] if started else total


def _sizes(types: str) -> list[float]:
    """The bytes of each array in the text of a type, which may be a tuple."""
    sizes = []
    for name, shape in _ARRAY.findall(types):
        bits = re.sub(r"^[a-z]+", "", name)
        itemsize = _BYTES.get(name) or (int(bits) / 8 if bits else 0)
        sizes.append(itemsize * math.prod(int(side) for side in shape.split(",") if side))
    return sizes


def _group_size(line: str, num_devices: int) -> int:
    """The number of devices among which an exchange takes place: of a list of lists, a shape, or axes of a mesh."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sides = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])  # an axis, or the part of one of some size
        return math.prod(int(part or sides[axis]) for axis, part in axes)
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(found[1].split(","))
    return num_devices


def _lines(program: str) -> Iterator[tuple[str, str]]:
    """Every line of a program with the name of its computation."""
    computation = ""
    for line in program.splitlines():
        if found := _COMPUTATION.match(line):
            computation = found[2]
        yield computation, line


def _repetitions(program: str) -> dict[str, tuple[int, bool]]:
    """How often each computation is run, and whether that is known; a loop of unknown length counts as one of one."""
    callers: dict[str, tuple[str, int, bool]] = {}
    for computation, line in _lines(program):
        if found := _WHILE.search(line):
            trips = _TRIPS.search(line)
            callers[found[2]] = computation, int(trips[1]) if trips else 1, trips is not None
        for name in _CALLED.findall(line):
            callers[name] = computation, 1, True

    def times(name: str) -> tuple[int, bool]:
        if name not in callers:
            return 1, True
        caller, count, known = callers[name]
        of_caller, caller_known = times(caller)
        return count * of_caller, known and caller_known

    return {name: times(name) for name in callers}
