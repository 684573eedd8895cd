"""Prints what runs are doing: a table with a line for each work directory.

  python -m ddpm_jax.jobs.status runs/digits             of one run
  python -m ddpm_jax.jobs.status runs/*                  of many runs
  python -m ddpm_jax.jobs.status --json runs/*           for a program: a JSON array with an object for each run

A run is waiting (it starts, or resumes), training, stopped (start it again to continue), finished (its last step is
done), or it needs you (a person must mend its last error). The table has the step, the speed, the share of the peak
arithmetic of the devices (MFU) where that is known, the time left, the step and the age of the newest checkpoint, the
loss on held-out images, and when the run was last heard of. It is read from the work directory, and no device is used.
"""

import json
import time

from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.errors import is_transient

JSON = flags.DEFINE_boolean("json", False, "Print JSON instead of a table.")


def main(*workdirs: str) -> None:
    """Prints the state of the runs in these directories.

    Raises:
      UserError: one of them cannot be read; the others have been printed. If a person must mend one, it is that one's.
    """
    from ddpm_jax.jobs.status.reading import observed
    from ddpm_jax.jobs.status.table import table

    now = time.time()
    runs = [observed(workdir, now=now) for workdir in workdirs]
    errors = sorted((run.error for run in runs if run.error), key=is_transient)
    if len(runs) > len(errors) or len(runs) > 1:
        lines = [json.dumps([run.as_json() for run in runs], indent=1)] if JSON.value else table(runs, now=now)
        print("\n".join(lines), flush=True)
    if errors:
        raise errors[0]


def command() -> None:
    """Runs the program."""
    cli.run(main, module=__name__, argument="the work directory of a run", repeated=True, uses_devices=False)


if __name__ == "__main__":
    command()
