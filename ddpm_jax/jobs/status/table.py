"""Many runs in one table: a line for each, and below it what a person should know of it."""

from collections.abc import Sequence

from ddpm_jax.jobs.status.reading import Observed
from ddpm_jax.jobs.status.spans import span

_HEADER = ("run", "state", "step", "steps/s", "images/s", "MFU", "left", "checkpoint", "held-out", "heard")


def table(runs: Sequence[Observed], *, now: float) -> list[str]:
    """Returns the lines of the table; "-" is what is not known.

    Args:
      runs: the runs, in the order of the table.
      now: the time, in seconds since 1970.
    """
    rows = [_HEADER, *(_cells(run, now) for run in runs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [[f"  {note}" for note in run.notes] for run in runs]
    return [lines[0], *(text for line, below in zip(lines[1:], notes, strict=True) for text in (line, *below))]


def _cells(run: Observed, now: float) -> tuple[str, ...]:
    """Returns the cells of a run."""
    status, name = run.status, str(run.workdir)
    if status is None:
        return (name, run.state, *["-"] * (len(_HEADER) - 2))
    step = "-" if status.step is None else f"{status.step:,}"
    checkpoint = "-" if status.checkpoint_step is None else f"{status.checkpoint_step:,}"
    return (
        name,
        run.state,
        step if status.num_steps is None else f"{step}/{status.num_steps:,}",
        _number(status.steps_per_s, ".3g"),
        _number(status.images_per_s, ",.0f"),
        _number(status.mfu, ".1%"),
        "-" if status.seconds_left is None else span(status.seconds_left),
        checkpoint if status.checkpoint_time is None else f"{checkpoint}, {span(now - status.checkpoint_time)} ago",
        _number(status.held_out_loss, ".4g"),
        "-" if run.silent_seconds is None else f"{span(run.silent_seconds)} ago",
    )


def _number(value: float | None, form: str) -> str:
    """Returns a number in a form of `format`, or "-" for None."""
    return "-" if value is None else format(value, form)
