"""Measures a machine: what it can do at most, and how much of that training and sampling reach.

  python benchmarks/accelerator.py --out=DIR                        eight minutes, on whatever device is here
  python benchmarks/accelerator.py --out=DIR --data=FOLDER          and trains CIFAR-10, JPEG in train/CLASS, test/CLASS
  python benchmarks/accelerator.py --out=DIR --against=OLD.json     and prints new over old

Parts: rates, training, pytorch, sampling, profile, suite, pictures (with --data), variants. Each runs in a process of
its own for its share of the time that is left. What it measures lies in DIR/PART.json as soon as it is known, all of it
in DIR/results.json and, as tables, in DIR/report.md. A part that fails says so, and the next one runs.
"""

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import _root  # noqa: F401
from _machine import environment
from _machine.job import Job, results_of, shown, write_results
from absl import flags

from ddpm_jax import program
from ddpm_jax.errors import UserError

# The share of the time for each part, over those of the parts after it; what one leaves goes to all of them.
SHARES = {"rates": 4, "training": 34, "pytorch": 22, "sampling": 16, "profile": 10, "suite": 10}
LAST_SHARES = {True: {"pictures": 30, "variants": 4}, False: {"variants": 20}}  # with and without --data
SHARE_MEMORY = ("pytorch", "suite")  # which leave the device's memory to another program than JAX in their process
GRACE = 10  # seconds past its time after which a part is ended

OUT = flags.DEFINE(program.PathParser(), "out", None, "Folder for the results; made if absent.", required=True)
DATA = flags.DEFINE(program.PathParser(), "data", None, "Folder of CIFAR-10 as JPEG: train/CLASS/* and test/CLASS/*.")
MINUTES = flags.DEFINE_float("minutes", 8.0, "Time for all parts.", lower_bound=0.1)
PARTS = flags.DEFINE_list("parts", None, "Which parts, in their order (default: all).")
AGAINST = flags.DEFINE(program.PathParser(), "against", None, "results.json of another run, to compare with.")
PART = flags.DEFINE_string("part", None, "Runs this part alone, in this process, for --minutes.")


def main() -> None:
    """Runs the parts, or one of them."""
    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    if PART.value:
        _run_part(PART.value, out)
        return
    old = _read_old()
    begin, shares = time.monotonic(), _chosen()
    with _compiled_programs():
        for number, (part, share) in enumerate(shares.items()):
            left = 60 * MINUTES.value - (time.monotonic() - begin)
            seconds = left * share / sum(list(shares.values())[number:])
            if seconds < 3:
                print(f"{part}: no time was left", flush=True)
                continue
            print(f"{part}: {seconds:.0f} s at most", flush=True)
            _in_own_process(part, out, seconds)
            _write_all(out, list(shares))
    print("\n" + (out / "report.md").read_text(), flush=True)
    if old:
        _compare(out, old)


def _run_part(part: str, out: Path) -> None:
    """One part, in this process."""
    import jax

    data = Path(DATA.value) if DATA.value else None
    job = Job(part, out, 60 * MINUTES.value, data=data, small=jax.default_backend() == "cpu")
    importlib.import_module(f"_machine.{part}").measure(job)
    job.done()


def _chosen() -> dict[str, int]:
    """The parts to run and their shares of the time."""
    shares = SHARES | LAST_SHARES[bool(DATA.value)]
    if DATA.value and not (Path(DATA.value) / "train").is_dir():
        raise UserError(f"{DATA.value} has no folder 'train': it should hold train/CLASS/* and test/CLASS/*")
    for part in PARTS.value or ():
        if part not in shares:
            raise UserError(f"there is no part {part!r} here; choose from {', '.join(shares)}")
    return {part: shares[part] for part in PARTS.value or shares}


def _in_own_process(part: str, out: Path, seconds: float) -> None:
    """Runs a part and ends it if it takes too long; its file then says why it is not whole."""
    (out / f"{part}.json").unlink(missing_ok=True)
    command = [sys.executable, __file__, f"--part={part}", f"--out={out}", f"--minutes={seconds / 60}"]
    command += [f"--data={DATA.value}"] * bool(DATA.value)
    with (out / f"{part}.log").open("w") as log:
        settings = dict(environment.OF_PARTS)
        if part in SHARE_MEMORY:
            settings["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        if part == "profile":  # each operation by itself, instead of graphs of many
            settings["XLA_FLAGS"] = f"{settings.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer="
        process = subprocess.Popen(command, stdout=sys.stdout, stderr=log, start_new_session=True, env=settings)
        try:
            status = process.wait(seconds + GRACE)
            reason = f"failed with status {status}: {_last_line(out / f'{part}.log')}"
        except subprocess.TimeoutExpired:
            status, reason = 1, "ended: its time was over"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    results = results_of(out, part)
    if status or results.get("state") != "done":
        write_results(out, part, {"rows": [], "notes": [], **results, "state": reason})
        print(f"  {reason}", flush=True)


def _last_line(log: Path) -> str:
    """What a program said last."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


@contextlib.contextmanager
def _compiled_programs() -> Iterator[None]:
    """A new folder for compiled programs, which the parts share; the first to need one says how long it took.

    JAX_COMPILATION_CACHE_DIR names another, which then stays.
    """
    if "JAX_COMPILATION_CACHE_DIR" in environment.OF_PARTS:
        yield
        return
    folder = tempfile.mkdtemp(prefix="compiled_")
    environment.OF_PARTS["JAX_COMPILATION_CACHE_DIR"] = folder
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_all(out: Path, parts: list[str]) -> None:
    """Puts what is known of all parts into results.json and report.md."""
    known = {part: results for part in parts if (results := results_of(out, part))}
    (out / "results.json").write_text(json.dumps(known, indent=1))
    (out / "report.md").write_text("\n".join(line for part in known for line in _section(part, known[part])))


def _section(part: str, results: dict) -> Iterator[str]:
    """A part as Markdown."""
    yield f"### {part}\n"
    if results["state"] != "done":
        yield f"Not whole: {results['state']}.\n"
    columns = list(dict.fromkeys(name for row in results["rows"] for name in row))
    if columns:
        yield f"| {' | '.join(columns).replace('what', '', 1)} |"
        yield "|---" * len(columns) + "|"
        for row in results["rows"]:
            yield f"| {' | '.join(shown(row.get(name, '')) for name in columns)} |"
        yield ""
    for note in results["notes"]:
        yield f"- {note}"
    yield ""


def _read_old() -> dict:
    """The results to compare with."""
    if not AGAINST.value:
        return {}
    try:
        return json.loads(Path(AGAINST.value).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--against={AGAINST.value} is no results.json of this command: {error}") from error


def _compare(out: Path, old: dict) -> None:
    """Prints new over old of every figure that both have."""
    print("new over old")
    for part, results in json.loads((out / "results.json").read_text()).items():
        before = {row["what"]: row for row in old.get(part, {}).get("rows", [])}
        for row in results["rows"]:
            ratios = [
                f"{name} {value / before[row['what']][name]:.3f}"
                for name, value in row.items()
                if isinstance(value, float) and before.get(row["what"], {}).get(name)
            ]
            if ratios:
                print(f"  {part}, {row['what']}: {', '.join(ratios)}")


if __name__ == "__main__":
    program.run(main, module=__name__)
