"""Checks that an installed ddpm_jax does what the README says, in an empty folder: `python installed.py CLONE`.

The interpreter must be that of the environment in which ddpm_jax is installed; only the README is read from CLONE.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

README = Path(sys.argv[1], "README.md").read_text()
(SNIPPET,) = re.findall(r"## Use it as a library\n\n```python\n(.*?)```", README, re.DOTALL)
SHORT = ["--config.train.num_steps=20", "--config.diffusion.num_timesteps=50", "--config.log.preview_steps=5"]
LIBRARY = """
import ddpm_jax as dj
config = dj.experiment("digits")
config.train.num_steps, config.log.preview_every = 20, 0  # few, to see that it runs
dj.train(config, "library")
assert dj.Run("library").sample(4, num_steps=5).shape == (4, 8, 8, 1)
assert dj.__version__
from ddpm_jax.evaluation import playground
assert len(playground.Playground(dj.Run("library")).page()) > 200_000
print(dj.__file__)
"""
COMMANDS: list[list[str]] = [
    ["ddpm-train", "--config=digits", "--workdir=run", *SHORT],
    ["ddpm-sample", "--workdir=run", "--num_images=4", "--num_steps=5", "--out=drawn.npz"],
    ["ddpm-evaluate", "--workdir=run", "--metrics=bpd", "--num_images=4"],
    ["ddpm-convert", "run", "--to=diffusers", "--out=exported"],
    ["ddpm-convert", "exported", "--out=imported"],
    ["ddpm-sample", "--workdir=imported", "--num_images=4", "--num_steps=5"],
    *([f"ddpm-{name}", "--help"] for name in ("train", "sample", "evaluate", "convert")),
    ["python", "-c", LIBRARY],
    ["python", "-c", SNIPPET],
]


def main() -> None:
    """Runs every command in an empty folder, and stops at the first that fails."""
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # programs compile in half the time
    with TemporaryDirectory() as empty:
        for program, *arguments in COMMANDS:
            command = [Path(sys.executable).with_name(program), *arguments]
            done = subprocess.run(command, cwd=empty, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{program} {' '.join(arguments)}\n{done.stdout}{done.stderr}")
            print(f"{program} {arguments[0]}: {done.stdout.strip().splitlines()[-1:]}"[:120], flush=True)


if __name__ == "__main__":
    main()
