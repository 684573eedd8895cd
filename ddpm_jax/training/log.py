"""The log of a run: a progress bar, the sinks of its lines (a JSONL file, TensorBoard), and grids of samples.

`WORKDIR/log.jsonl`, or in a bucket `WORKDIR/log/` (`log_lines.py`), is the record of the run. It gets one line of JSON
every `config.log.every` steps; every other sink gets the same lines. When a run is resumed, the lines logged after its
checkpoint are removed, so that every step is in the log once. Read next: `sinks.py`, `goodput.py`.
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
from ddpm_jax.training.goodput import Clock, as_numbers, training_seconds
from ddpm_jax.training.log_lines import stored_lines
from ddpm_jax.training.sinks import LogLine, Sink, Start
from ddpm_jax.training.spikes import Spikes
from ddpm_jax.training.step import Metrics

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
    """Collects the metrics of every step and writes their means to sinks; a context manager, which ends the sinks.

    If there are several processes, only the first one writes.

    Args:
      start: the step from which the run starts, and what else its sinks learn.
      sinks: where the lines and pictures go.
      num_steps: the number of steps of the whole run.
      batch_size: the number of images per step, for images/s.
      learning_rate: function from the number of steps already taken to the learning rate of the next step.
      watch: function that is called with all lines of the log after each new one, instead of printing; or None.
      tolerated: the number of steps passed over in the run up to which a step that diverged is only noted.
      clock: the `Clock` of this process, or None for a new one.
      peak_steps_per_s: the training speed at the peak of all devices, for their share of it; None if it is not known.

    Attributes:
      clock: the `Clock`, whose seconds go into each line.

    Raises:
      UserError: the directory cannot be written.
    """

    def __init__(
        self,
        start: Start,
        sinks: Sequence[Sink],
        *,
        num_steps: int,
        batch_size: int,
        learning_rate: optax.Schedule,
        watch: Watch | None = None,
        tolerated: int = 0,
        clock: Clock | None = None,
        peak_steps_per_s: float | None = None,
    ) -> None:
        self._tolerated, self._rolled_back_from = tolerated, start.rolled_back_from
        self._workdir, self._batch_size, self._learning_rate = start.workdir, batch_size, learning_rate
        self._peak_steps_per_s = peak_steps_per_s
        self.clock, self._spikes = clock or Clock(), Spikes()
        self._sinks: list[Sink] = []  # those that were started, on the first process
        if is_first():
            self._start(start, sinks)
        self._pending: list[tuple[int, Metrics]] = []
        self._last_step = start.step
        self._on_terminal, self._num_steps, self._watch = on_terminal(), num_steps, watch
        shown = on_terminal() and is_first() and not watch
        bar_format = "{desc} {n_fmt}/{total_fmt} |{bar}| {remaining} left{postfix}"  # short: 80 columns hold it
        options = {"initial": start.step, "disable": not shown, "bar_format": bar_format}
        self._bar = progress_bar(num_steps, "training", unit="step", **options)

    def __enter__(self) -> Self:
        """Returns self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the bar and ends the sinks."""
        self._bar.close()
        with contextlib.ExitStack() as ends:
            for sink in self._sinks:
                ends.callback(sink.end, error)
            try:
                self.store()
            except UserError:
                if error is None:
                    raise

    def store(self) -> None:
        """Stores what was added so far, which a bucket gets now and then only; raises a `UserError` if it cannot."""
        for sink in self._sinks:
            with self._writing():
                sink.store()

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
        with self.clock.phase("steps"):
            computed = [(step, values) for step, values in jax.device_get(self._pending) if values]
        self._check([(step, values) for step, values in computed if values["diverged"]])
        taken = [(step, values) for step, values in computed if not values["diverged"]]
        self._pending = []
        if not taken:
            return
        line = self._means(last, taken)
        with self.clock.phase("measuring"):
            measured = self._finite(measure(), last)
        line |= {**self._speeds(last), **measured}
        with self.clock.phase("logging"):
            by_first(lambda: self._publish(line))

    def picture(self, name: str, image: np.ndarray, *, step: int) -> AnyPath:
        """Writes a picture `[H, W, C]` uint8 to `WORKDIR/previews` and to the sinks; returns its path."""
        path = self._workdir / "previews" / f"{name}_{step:07d}.png"

        def write() -> None:
            save_png(path, image)
            for sink in self._sinks:
                with self._writing():
                    sink.picture(name, image, step=step)

        by_first(write)
        return path

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if is_first():
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def _start(self, start: Start, sinks: Sequence[Sink]) -> None:
        """Starts the sinks, or none; the time for steps that they have already is lost, since they come again."""
        with self._writing():
            dropped = [line for _, line in stored_lines(self._workdir) if line["step"] > start.step]
        self.clock.begin(dropped)
        try:
            for sink in sinks:
                with self._writing():
                    sink.start(start)
                self._sinks.append(sink)
        except BaseException as error:
            with contextlib.ExitStack() as ends:
                for sink in self._sinks:
                    ends.callback(sink.end, error)
            raise

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
        """Returns the line of a step without its speeds: the means since the last line, every term by quarter of t.

        Of the steps that were taken and not passed over it gets the numbers and `Metrics` on the host. A quarter of t
        in which no time was drawn is left out.
        """
        steps, metrics = zip(*taken, strict=True)
        passed_over, returned, spikes = int(metrics[-1]["passed_over"]), self._rolled_back_from, self._spiked(taken)
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
            **({"passed_over": passed_over} if passed_over else {}),
            **({"rolled_back_from": returned} if returned else {}),
            **({"spikes": spikes} if spikes else {}),
        }

    def _speeds(self, step: int) -> dict[str, float]:
        """Returns the speeds and the seconds by phase since the last line."""
        seconds = self.clock.taken()
        per_second = (step - self._last_step) / max(training_seconds(seconds), 1e-9)
        self._last_step = step
        return {
            "steps_per_s": per_second,
            "images_per_s": per_second * self._batch_size,
            **({"mfu": per_second / self._peak_steps_per_s} if self._peak_steps_per_s else {}),
            **as_numbers(seconds),
        }

    def _spiked(self, taken: Sequence[tuple[int, Mapping[str, Any]]]) -> int:
        """Returns the number of steps whose loss is far above those before; a note names the first of them."""
        medians = [
            (step, loss, self._spikes.median_below(loss))
            for step, loss in ((step, float(values["loss"])) for step, values in taken)
        ]
        found = [(step, loss, median) for step, loss, median in medians if median is not None]
        if found:
            (step, loss, median), others = found[0], len(found) - 1
            more = f"; {others} more since the last line" if others else ""
            self.say(f"note: the loss at step {step:,} is {loss:.4g}; the median of those before is {median:.4g}{more}")
        return len(found)

    def _finite(self, measured: Mapping[str, float], step: int) -> dict[str, float]:
        """Returns the finite ones of these numbers; a note names the first of the others."""
        broken = [name for name, value in measured.items() if not np.isfinite(value)]
        if broken:
            self.say(f"note: {broken[0]} at step {step:,} is not finite, and is not logged")
        return {name: value for name, value in measured.items() if name not in broken}

    def _publish(self, line: LogLine) -> None:
        """Writes a line and shows it."""
        for sink in self._sinks:
            with self._writing():
                sink.line(line)
        self._watch(read_log(self._workdir)) if self._watch else self._show(line)

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        """Turns an error of the disk into a `UserError`."""
        then = "then the same command resumes from the last good checkpoint"
        what = f"the log in {self._workdir}"
        return writing(what, full=f"free some space; {then}", other=f"fix the cause; {then}")

    def _show(self, line: LogLine) -> None:
        """Shows the line in the progress bar, or prints it if there is no terminal."""
        speed, shown = f"{line['images_per_s']:,.0f} images/s", "accuracy" if "accuracy" in line else "loss"
        speed += f" ({line['mfu']:.1%} MFU)" if "mfu" in line else ""
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
    "loss_t4" are the means over the quarters of t, from little noise to much; "seconds_steps", "seconds_input" and
    others are where the time since the line before went (`goodput.PHASES`); "mfu" is the share of the devices' peak
    arithmetic that the steps reach, where it is known. A run without a log gives `[]`.

    Raises:
      UserError: the log cannot be read.
    """
    path = any_path(workdir)
    with reading(path):
        return [line for _, line in stored_lines(path)]
