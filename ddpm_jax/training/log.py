"""The log of a run: a progress bar, a JSONL file, TensorBoard, and grids of samples.

`WORKDIR/log.jsonl`, or in a bucket `WORKDIR/log/` (`log_lines.py`), is the record of the run. It gets one line of JSON
every `config.log.every` steps; TensorBoard shows the same numbers. When a run is resumed, the lines logged after its
checkpoint are removed, so that every step is in the log once.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

import jax
import numpy as np
import optax
from tqdm import tqdm

from ddpm_jax.errors import UserError, reading, writing
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import by_first, is_first
from ddpm_jax.runtime.images import save_png
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.progress import on_terminal, progress_bar
from ddpm_jax.runtime.quiet import unless_loaded
from ddpm_jax.training.board import Board
from ddpm_jax.training.log_lines import Lines, LogLine, open_lines, stored_lines
from ddpm_jax.training.step import Metrics

with unless_loaded("torch"):
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.summary import image as image_summary


_NOT_MEANS = {"quarter_sums", "quarter_count", "diverged", "passed_over"}  # metrics that are logged in another way

Watch: TypeAlias = Callable[[list[LogLine]], object]
"""A function that is called with all lines of the log, oldest first, after each new one."""


class DivergedError(Exception):
    """A run diverged: a number is not finite, or stands out from those before.

    Attributes:
      what: which number it is, in words.
      step: the first step at which this was seen.
    """

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"the {what} at step {step}")
        self.what, self.step = what, step


class RunLog:
    """Collects the metrics of every step and writes their means; a context manager, which closes the files.

    If there are several processes, only the first one writes.

    Args:
      workdir: the run's directory.
      start_step: the number of steps already taken.
      num_steps: the number of steps of the whole run.
      batch_size: the number of images per step, for images/s.
      learning_rate: function from the number of steps already taken to the learning rate of the next step.
      watch: function that is called with all lines of the log after each new one, instead of printing; or None.
      tolerated: the number of steps passed over in the run up to which a step that diverged is only noted.
      rolled_back_from: the step from which the run returned to the first one, which the first line names; 0 for none.
      term: the number of this start of a run in a bucket, see `Checkpoints`.

    Attributes:
      listeners: functions that the first process calls with each new line.

    Raises:
      UserError: the directory cannot be written.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        start_step: int,
        num_steps: int,
        batch_size: int,
        learning_rate: optax.Schedule,
        watch: Watch | None = None,
        tolerated: int = 0,
        rolled_back_from: int = 0,
        term: int = 0,
    ) -> None:
        self._tolerated, self._rolled_back_from = tolerated, rolled_back_from
        self._workdir, self._batch_size, self._learning_rate = any_path(workdir), batch_size, learning_rate
        self.listeners: list[Callable[[LogLine], object]] = []
        self._files: tuple[Lines, Board] | None = None  # of the first process only
        if is_first():
            with self._writing():
                lines = open_lines(self._workdir, start_step=start_step, term=term)
                self._files = lines, Board(self._workdir / "tensorboard", start_step=start_step)
        self._pending: list[tuple[int, Metrics]] = []
        self._last_step, self._last_time = start_step, time.perf_counter()
        self._on_terminal, self._num_steps, self._watch = on_terminal(), num_steps, watch
        shown = on_terminal() and is_first() and not watch
        bar_format = "{desc} {n_fmt}/{total_fmt} |{bar}| {remaining} left{postfix}"  # short: 80 columns hold it
        options = {"initial": start_step, "disable": not shown, "bar_format": bar_format}
        self._bar = progress_bar(num_steps, "training", unit="step", **options)

    def __enter__(self) -> Self:
        """Returns self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the bar and the files."""
        self._bar.close()
        if self._files:
            try:
                self.store()
            except UserError:
                if error is None:
                    raise
            finally:
                self._files[1].close()

    def store(self) -> None:
        """Stores what was added so far, which a bucket gets now and then only; raises a `UserError` if it cannot."""
        for file in self._files or ():
            with self._writing():
                file.store()

    def add(self, step: int, metrics: Metrics) -> None:
        """Adds the metrics of a step, which stay on the device until the next `flush`; `{}` if it was passed over.

        It waits until the step before is computed, so that only one step is in flight.
        """
        if self._pending:
            jax.block_until_ready(self._pending[-1][1])
        self._pending.append((step, metrics))
        self._bar.update(1)

    def flush(self, measure: Callable[[], Mapping[str, float]] = dict) -> None:
        """Writes the means of the metrics since the last flush, and other numbers of the last step.

        There is no line if all these steps were passed over.

        Args:
          measure: function that returns these numbers by name. It is called once the metrics are known to be finite;
            the speeds do not count its time. A number that is not finite is left out, with a note.

        Raises:
          DivergedError: a step diverged and is not tolerated.
          UserError: the log cannot be written; if there are several processes, it is raised on all of them.
        """
        if not self._pending:
            return
        last = self._pending[-1][0]
        computed = [(step, values) for step, values in jax.device_get(self._pending) if values]
        self._check([(step, values) for step, values in computed if values["diverged"]])
        taken = [(step, values) for step, values in computed if not values["diverged"]]
        self._pending = []
        if not taken:
            return
        line = self._means(last, taken)
        if measured := self._finite(measure(), last):
            self.restart_clock()
        by_first(lambda: self._publish({**line, **measured}))

    def picture(self, name: str, image: np.ndarray, *, step: int) -> AnyPath:
        """Writes a picture `[H, W, C]` uint8 to `WORKDIR/previews` and to TensorBoard; returns its path."""
        path = self._workdir / "previews" / f"{name}_{step:07d}.png"

        def write() -> None:
            save_png(path, image)
            with self._writing():
                self._opened[1].add(step, summary=image_summary(name, image, dataformats="HWC"))

        by_first(write)
        return path

    def restart_clock(self) -> None:
        """Excludes the time since the last flush (of previews or compilation) from the speeds."""
        self._last_time = time.perf_counter()

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self._files:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def _check(self, diverged: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Notes the steps that diverged, by their metrics on the host; raises a `DivergedError` if too many did."""
        if not diverged:
            return
        for step, values in diverged:
            if values["passed_over"] > self._tolerated:
                raise DivergedError(_what_diverged(values), step)
        (step, values), others = diverged[0], len(diverged) - 1
        more = f", and {others} more since the last line" if others else ""
        count = f"{int(diverged[-1][1]['passed_over'])} of at most {self._tolerated}"
        self.say(f"note: the {_what_diverged(values)} at step {step:,}; its batch is passed over{more} ({count})")

    def _means(self, step: int, taken: Sequence[tuple[int, Mapping[str, Any]]]) -> LogLine:
        """Returns the line of a step: the means since the last line, every term by quarter of t, and the speeds.

        Of the steps that were taken and not passed over it gets the numbers and `Metrics` on the host. A quarter of t
        in which no time was drawn is left out.
        """
        steps, metrics = zip(*taken, strict=True)
        now = time.perf_counter()
        per_second = (step - self._last_step) / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        passed_over, returned = int(metrics[-1]["passed_over"]), self._rolled_back_from
        self._rolled_back_from = 0
        scalars = metrics[0].keys() - _NOT_MEANS
        mean = {key: float(np.mean([m[key] for m in metrics])) for key in sorted(scalars)}
        counts, quarters = np.sum([m["quarter_count"] for m in metrics], axis=0), {}
        for name in sorted(metrics[0]["quarter_sums"]):
            sums = np.sum([m["quarter_sums"][name] for m in metrics], axis=0)
            quarters |= {f"{name}_t{i + 1}": float(sums[i] / counts[i]) for i in range(4) if counts[i]}
        return {
            "step": step,
            **mean,
            **quarters,
            "learning_rate": float(np.asarray(self._learning_rate(steps[-1] - 1 - passed_over))),
            "steps_per_s": per_second,
            "images_per_s": per_second * self._batch_size,
            **({"passed_over": passed_over} if passed_over else {}),
            **({"rolled_back_from": returned} if returned else {}),
        }

    def _finite(self, measured: Mapping[str, float], step: int) -> dict[str, float]:
        """Returns the finite ones of these numbers; a note names the first of the others."""
        broken = [name for name, value in measured.items() if not np.isfinite(value)]
        if broken:
            self.say(f"note: {broken[0]} at step {step:,} is not finite, and is not logged")
        return {name: value for name, value in measured.items() if name not in broken}

    def _publish(self, line: LogLine) -> None:
        """Writes a line and shows it."""
        self._write(line)
        self._watch(read_log(self._workdir)) if self._watch else self._show(line)
        for listener in self.listeners:
            listener(line)

    def _write(self, line: LogLine) -> None:
        """Adds a line to the JSONL file and to TensorBoard."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in line.items() if name != "step"]
        lines, board = self._opened
        with self._writing():
            lines.add(line)
            board.add(line["step"], summary=Summary(value=scalars))

    @property
    def _opened(self) -> tuple[Lines, Board]:
        """The files, of the first process."""
        assert self._files is not None, "only the first process writes"
        return self._files

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        """Turns an error of the disk into a `UserError`."""
        then = "then the same command resumes from the last good checkpoint"
        what = f"the log in {self._workdir}"
        return writing(what, full=f"free some space; {then}", other=f"fix the cause; {then}")

    def _show(self, line: LogLine) -> None:
        """Shows the line in the progress bar, or prints it if there is no terminal."""
        speed, shown = f"{line['images_per_s']:,.0f} images/s", "accuracy" if "accuracy" in line else "loss"
        loss = f"{shown} {line[shown]:.4f}"
        values = (line.get(f"{shown}_t{i}") for i in range(1, 5))
        quarters = " ".join("-" if value is None else f"{value:.3f}" for value in values)  # "-": no time drawn
        measured = [name for name in (f"held_out_{shown}", "fd") if name in line]
        more = "".join(f"  {name} {line[name]:.4g}" for name in measured)
        self._bar.set_postfix_str(
            f"{speed}, {loss} ({quarters.replace('0.', '.')}){more}"
        )  # the mean, and by quarter of t
        if not self._on_terminal:
            left = (self._num_steps - line["step"]) / max(line["steps_per_s"], 1e-9)
            eta = time.strftime("%H:%M:%S", time.gmtime(left)) if left < 86400 else f"{left / 86400:.1f} days"
            progress = f"step {line['step']:,}/{self._num_steps:,}"
            print(
                f"{progress}  {loss}  ({quarters}){more}  {line['steps_per_s']:.2f} steps/s  {speed}  {eta} left",
                flush=True,
            )


def _what_diverged(values: Mapping[str, Any]) -> str:
    """Which number of the metrics (on the host) of a step that diverged is not finite or stands out, in words."""
    loss, norm, sums = values["loss"], values["grad_norm"], values["quarter_sums"]
    if not (np.isfinite(loss) and np.isfinite(norm)):
        return f"loss became {loss:g} (gradient norm {norm:g})"
    terms = sorted(values.keys() - _NOT_MEANS)
    broken = [name for name in terms if not np.isfinite([values[name], *sums.get(name, [])]).all()]
    if broken:
        return f"loss has a term {broken[0]!r} that is not finite (its mean is {values[broken[0]]:g})"
    return f"loss of {loss:g} or its gradient norm of {norm:g} stands out from those of the steps before"


def read_log(workdir: str | os.PathLike[str]) -> list[LogLine]:
    """Returns the lines of a run's log as dicts, oldest first; incomplete and foreign lines are skipped.

    Every line has "step", "loss", "grad_norm", "learning_rate", "steps_per_s" and "images_per_s"; "loss_t1" to
    "loss_t4" are the means over the quarters of t, from little noise to much. A run without a log gives `[]`.

    Raises:
      UserError: the log cannot be read.
    """
    path = any_path(workdir)
    with reading(path):
        return [line for _, line in stored_lines(path)]
