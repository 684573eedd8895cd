"""Writes the data of the playground: the digits, and the network of a run as float16.

  python benchmarks/playground_data.py --workdir=runs/digits

The files are `digits.js` and `network.js` of `docs/play/`; the page loads the second one when it is asked for.
"""

import _root  # noqa: F401
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.evaluation import playground
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.storage import write_whole

WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "The run of the experiment `digits`.")
OUT = flags.DEFINE_string("out", "docs/play", "The folder of the page.")


def main() -> None:
    """Writes the two files."""
    run = Run(WORKDIR.value)
    playground.check_playable(run)
    for name, text in {"digits.js": playground.digits_script(), "network.js": playground.script_of_run(run)}.items():
        path = any_path(OUT.value) / name
        write_whole(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
        print(f"wrote {path}, {len(text):,} bytes")


if __name__ == "__main__":
    cli.run(main, module=__name__)
