"""Measures the peak speed of one device of this machine, and how much of it training and sampling reach.

  python benchmarks/accelerator.py --out=DIR                        takes eight minutes, on any kind of device
  python benchmarks/accelerator.py --out=DIR --data=FOLDER          also trains on CIFAR-10, with the part "pictures"
  python benchmarks/accelerator.py --out=DIR --data=FOLDER --parts=pictures    runs only one part, or runs it again
  python benchmarks/accelerator.py --out=DIR --against=OLD.json     also prints the ratios of new to old results

The parts are rates, training, pytorch, pairs, sampling, profile, suite, pictures (with --data) and variants. Each runs
in its own process for its share of the remaining time. Its results are written to DIR/PART.json as soon as they are
known; all results are in DIR/results.json and, as tables, in DIR/report.md. If a part fails, this is reported and the
next part runs.
"""

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import _root  # noqa: F401
from _machine import environment, report
from _machine.job import Job, results_of, write_results
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.errors import UserError

# The share of the time for each part, relative to those of the parts after it, which share what a part leaves.
SHARES = {"rates": 6, "training": 40, "pytorch": 24, "pairs": 24, "sampling": 18, "profile": 20, "suite": 12}
LAST_SHARES = {True: {"pictures": 45, "variants": 4}, False: {"variants": 20}}  # with and without --data
SHARE_MEMORY = ("pytorch", "pairs", "suite")  # whose process leaves device memory to programs other than its own JAX
GRACE = 5  # seconds past its time after which a part is ended
SHORTEST = 6  # seconds that a part needs to begin at all

OUT = flags.DEFINE(cli.PathParser(), "out", None, "The folder for the results; it is made if absent.", required=True)
DATA = flags.DEFINE(cli.PathParser(), "data", None, "The folder of CIFAR-10 as JPEG: train/CLASS/* and test/CLASS/*.")
MINUTES = flags.DEFINE_float("minutes", 8.0, "The time for all parts together, in minutes.", lower_bound=0.5)
PARTS = flags.DEFINE_list("parts", None, "The parts to run, in this order (default: all).")
AGAINST = flags.DEFINE(cli.PathParser(), "against", None, "A results.json of an earlier measurement to compare with.")
PART = flags.DEFINE_string(environment.FLAG, None, "Runs only this part, in this process; used by the program itself.")
UNTIL = flags.DEFINE_float(
    "until", None, "The end of the part's time, in seconds since 1970; used by the program itself."
)


def main() -> None:
    """Runs all chosen parts, or, in the process of one part, this part."""
    out = Path(OUT.value)
    if PART.value:
        _run_part(PART.value, out)
        return
    old = report.read(Path(AGAINST.value)) if AGAINST.value else {}
    shares = _chosen()
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that what is open is closed
    for part in shares:
        (out / f"{part}.json").unlink(missing_ok=True)
    try:
        with _compiled_programs():
            _run_all(out, shares)
    finally:
        report.write(out, [*SHARES, *LAST_SHARES[True]])
    print("\n" + (out / "report.md").read_text(), flush=True)
    if old:
        print("\n".join(report.compared(report.read(out / "results.json"), old)), flush=True)


def _run_all(out: Path, shares: dict[str, int]) -> None:
    """Runs the parts one after the other."""
    end = time.time() + 60 * MINUTES.value
    for number, (part, share) in enumerate(shares.items()):
        seconds = (end - time.time()) * share / sum(list(shares.values())[number:])
        if seconds < SHORTEST:
            print(f"{part}: no time was left", flush=True)
            continue
        print(f"{part}: {seconds:.0f} s at most", flush=True)
        _in_own_process(part, out, time.time() + seconds)
        report.write(out, [*SHARES, *LAST_SHARES[True]])


def _run_part(part: str, out: Path) -> None:
    """Runs one part in this process, which ends when the process that started it ends."""
    import jax

    parent = os.getppid()

    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    device = jax.devices()[0]
    machine = f"{device.device_kind} ({device.platform}), jax {jax.__version__}"
    data = Path(DATA.value) if DATA.value else None
    assert UNTIL.value is not None, "whoever starts a part says until when"
    job = Job(part, out, UNTIL.value, machine=machine, data=data, small=device.platform == "cpu")
    importlib.import_module(f"_machine.{part}").measure(job)
    job.done()


def _chosen() -> dict[str, int]:
    """The parts to run and their shares of the time."""
    shares = SHARES | LAST_SHARES[bool(DATA.value)]
    for split in ("train", "test"):
        if DATA.value and not (Path(DATA.value) / split).is_dir():
            raise UserError(
                f"{DATA.value} does not contain the folder {split!r}: it needs train/CLASS/* and test/CLASS/*"
            )
    for part in PARTS.value or ():
        if part == "pictures" and not DATA.value:
            raise UserError("the part 'pictures' trains on CIFAR-10: give its folder with --data=FOLDER")
        if part not in shares:
            raise UserError(f"{part!r} is not the name of a part; choose from {', '.join(shares)}")
    return {part: shares[part] for part in PARTS.value or shares}


def _in_own_process(part: str, out: Path, until: float) -> None:
    """Runs a part and ends it if it takes too long; its file then states why it is not complete."""
    command = [sys.executable, __file__, f"--{environment.FLAG}={part}", f"--out={out}", f"--until={until}"]
    command += [f"--data={DATA.value}"] * bool(DATA.value)
    settings = dict(environment.OF_PARTS)
    if part in SHARE_MEMORY:
        settings["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if part == "profile":  # each operation by itself, instead of graphs of many
        settings["XLA_FLAGS"] = f"{settings.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer="
    with (out / f"{part}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=sys.stdout, stderr=log, start_new_session=True, env=settings)
        reason = "ended, because the program was ended"
        try:
            status = process.wait(max(0.0, until - time.time()) + GRACE)
            reason = f"failed with status {status}: {_last_line(out / f'{part}.log')}"
        except subprocess.TimeoutExpired:
            reason = "ended, because its time was over"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            results = results_of(out, part)
            if results.get("state") != "done":
                write_results(out, part, {"rows": [], "notes": [], **results, "state": reason})
                print(f"  {reason}", flush=True)


def _last_line(log: Path) -> str:
    """The last line that a program wrote to its log."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


@contextlib.contextmanager
def _compiled_programs() -> Iterator[None]:
    """Makes a folder for compiled programs, which the parts share, and removes it at the end.

    The first part that needs a program reports the time to compile it. If JAX_COMPILATION_CACHE_DIR names a folder,
    that one is used and kept.
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


if __name__ == "__main__":
    cli.run(main, module=__name__)
