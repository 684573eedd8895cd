"""Tests that damaged checkpoints, images and weights never give wrong values, a traceback, a hang, or code that runs.

  python benchmarks/damage.py
  python benchmarks/damage.py --seed=1 --checkpoints=1000 --images=0 --weights=0

Checkpoints of two model sizes are damaged in one place each (bits, bytes, truncations, blocks, files, folders), opened
in every way in which the library opens one, and compared bit for bit with what was saved. Images of every format that
`ImageFolder` reads are damaged and opened; so are files of weights, and pickles with inserted instructions, which would
make a folder if they were executed. This runs in processes with limits of memory and time, and needs Linux.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import _root  # noqa: F401, I001 -- before what imports the package
import _damaged_checkpoints
import _damaged_images
import _damaged_weights
from _pool import Outcome, Task, outcomes
from absl import logging

T = TypeVar("T")
SECONDS = 60  # for one task; the first task of a process compiles
RESULTS = ("loads", "one-line error", "traceback", "hang", "over 1 GB", "executed", "crash")
FAULTS = ("WRONG VALUES", "traceback", "hang", "over 1 GB", "executed", "crash")


def tabulated(name: str, results: tuple[str, ...], found: list[tuple[str, Outcome]], shown: int) -> None:
    """Prints how often each kind of input had each result, and the first `shown` faults of each."""
    counts = Counter((kind, outcome.result) for kind, outcome in found)
    width = max(len(kind) for kind, _ in found)
    print(f"\n{name:{width}}  " + "  ".join(results))
    for kind in [*dict.fromkeys(sorted(kind for kind, _ in found)), "all"]:
        row = [sum(n for (k, r), n in counts.items() if r == result and kind in (k, "all")) for result in results]
        print(f"{kind:{width}}  " + "  ".join(f"{n:{len(result)}}" for n, result in zip(row, results, strict=True)))
    for result in FAULTS:
        for kind, outcome in [(k, o) for k, o in found if o.result == result][:shown]:
            print(f"  {result}: {kind}: {outcome.detail[:200]}")
    sys.stdout.flush()


def gathered(task: Task, count: int, args: argparse.Namespace) -> list[tuple[int, Outcome]]:
    """The outcomes of all tasks, in their order; prints a line of progress every half minute."""
    found, begin, said = [], time.monotonic(), time.monotonic()
    for number, outcome in outcomes(task, count, workers=args.workers, seconds=SECONDS):
        found.append((number, outcome._replace(detail=f"number {number}: {outcome.detail}")))
        if time.monotonic() - said > 30:
            said = time.monotonic()
            left = (said - begin) / len(found) * (count - len(found))
            print(f"{len(found):,}/{count:,}, {left / 60:.1f} min left", flush=True)
    return sorted(found)


def apart(function: Callable[..., T], *args: object) -> T:
    """A function's result from a separate process, so that JAX's backend does not start in this one."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, args)


def checkpoints(args: argparse.Namespace, folder: Path) -> int:
    """Damages checkpoints and prints tables of the outcomes; returns the number of wrong values."""
    ways, kinds = _damaged_checkpoints.WAYS, _damaged_checkpoints.KINDS
    whole = apart(_damaged_checkpoints.seeds, folder)
    found = gathered(_damaged_checkpoints.task(args.seed, whole, folder), args.checkpoints * len(ways), args)
    kind_of = lambda number: kinds[number // len(ways) // len(whole) % len(kinds)]
    results = ("right values", "the one before", "one-line error", *FAULTS)
    tabulated(f"{args.checkpoints:,} checkpoints", results, [(kind_of(i), o) for i, o in found], args.show)
    tabulated("opened as", results, [(ways[i % len(ways)], o) for i, o in found], 0)
    return sum(outcome.result == "WRONG VALUES" for _, outcome in found)


def images(args: argparse.Namespace, folder: Path) -> None:
    """Damages images and prints a table of the outcomes."""
    (folder / "formats").mkdir()
    whole = _damaged_images.seeds(folder / "formats")
    found = gathered(_damaged_images.task(args.seed, whole, folder), args.images, args)
    tabulated(f"{args.images:,} images", RESULTS, [(o.kind or "unknown", o) for _, o in found], args.show)


def weights(args: argparse.Namespace, folder: Path) -> None:
    """Damages files of weights and prints a table of the outcomes."""
    control = gathered(_damaged_weights.control(folder), 1, args)
    if control[0][1].result != "executed":
        sys.exit("an attack that Python's own reader executes was not seen")
    forms, whole = _damaged_weights.FORMS, apart(_damaged_weights.seeds)
    found = gathered(_damaged_weights.task(args.seed, whole, folder), args.weights, args)
    tabulated(f"{args.weights:,} files of weights", RESULTS, [(forms[i % len(forms)], o) for i, o in found], args.show)


def main() -> None:
    """Prints a table for each part, and the number of wrong values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="the seed of the damage")
    parser.add_argument(
        "--checkpoints",
        type=int,
        default=300,
        help="the number of damaged checkpoints, each opened in four ways; 0 for none",
    )
    parser.add_argument("--images", type=int, default=5000, help="the number of damaged images; 0 for none")
    parser.add_argument("--weights", type=int, default=4000, help="the number of damaged files of weights; 0 for none")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="the number of processes")
    parser.add_argument("--show", type=int, default=3, help="the number of faults of each kind to describe")
    args = parser.parse_args()
    begin, wrong = time.monotonic(), None
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.images:
            images(args, folder)
        if args.weights:
            weights(args, folder)
        if args.checkpoints:
            wrong = checkpoints(args, folder)
    print(f"\nseed {args.seed}, {(time.monotonic() - begin) / 60:.1f} min on {args.workers} processes")
    if wrong is not None:
        print(f"{wrong} wrong values")


if __name__ == "__main__":
    main()
