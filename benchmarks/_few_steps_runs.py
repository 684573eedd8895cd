"""The runs that `few_steps.py` compares: a teacher of the digits for each seed, its students, and a classifier."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from _small_runs import ROOT

from ddpm_jax.config import experiment
from ddpm_jax.training.restoring import saved_steps

CLASSIFIER = "digits_classifier"


class Training(NamedTuple):
    """How a run is trained.

    Attributes:
      config: the name of its configuration.
      teacher: the name of the run that teaches it; "" for none.
      settings: changes of the configuration, by their paths.
    """

    config: str
    teacher: str = ""
    settings: Mapping[str, int] = {}


STAGE = experiment("digits_progressive").distil.stage_steps
TRAININGS = {
    "digits_flow": Training("digits_flow"),
    # The stages of digits_progressive one after the other, each as a run that can be sampled, and one of 2 steps.
    "progressive_4": Training(
        "digits_progressive", "digits_flow", {"sample.num_steps": 4, "train.num_steps": 2 * STAGE}
    ),
    "progressive_1": Training(
        "digits_progressive", "progressive_4", {"distil.first_steps": 1, "train.num_steps": STAGE}
    ),
    "progressive_2": Training(
        "digits_progressive",
        "progressive_4",
        {"distil.first_steps": 2, "distil.teacher_steps": 2, "sample.num_steps": 2, "train.num_steps": STAGE},
    ),
    "digits_consistency": Training("digits_consistency", "digits_flow"),
    "digits_mean_flow": Training("digits_mean_flow", "digits_flow"),
}


def folder_of(workdir: Path, name: str, seed: int) -> Path:
    """The work directory of a run."""
    return workdir / name if name == CLASSIFIER else workdir / f"seed_{seed}" / name


def missing(workdir: Path, names: Iterator[str], seed: int) -> Iterator[tuple[Path, list[str]]]:
    """The work directories of what must be trained for these runs, and the arguments of train.py, in their order."""
    wanted = [CLASSIFIER]
    for name in names:
        line = [name]
        while teacher := TRAININGS[line[0]].teacher:
            line.insert(0, teacher)
        wanted += line
    for name in dict.fromkeys(wanted):
        training, folder = TRAININGS.get(name, Training(name)), folder_of(workdir, name, seed)
        settings: dict[str, object] = {"seed": 0 if name == CLASSIFIER else seed, "log.preview_every": 0}
        settings |= training.settings
        if training.teacher:
            settings["teacher.workdir"] = folder_of(workdir, training.teacher, seed)
        num_steps = training.settings.get("train.num_steps", experiment(training.config).train.num_steps)
        if num_steps not in saved_steps(folder / "checkpoints"):
            arguments = [f"--config={ROOT / 'configs' / training.config}.py", f"--workdir={folder}"]
            yield folder, [*arguments, *(f"--config.{path}={value}" for path, value in settings.items())]


def train(folder: Path, arguments: list[str]) -> None:
    """Trains a run in its own process, or continues its training; exits with an error if the training fails."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"training {folder}; its log is in {folder}.log", flush=True)
    with open(f"{folder}.log", "a") as log:
        done = subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], stdout=log, stderr=log)
    if done.returncode:
        last = Path(f"{folder}.log").read_text().strip().splitlines()[-1]
        sys.exit(f"the training in {folder} ended with {done.returncode}: {last}")
