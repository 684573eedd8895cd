"""Measures samples of the digits against the number of evaluations of the network: solvers, sequences and students.

  python benchmarks/few_steps.py
  python benchmarks/few_steps.py --evaluations=1,4 --methods=progressive,consistency --seeds=1 --out=few_steps.png

Trains what is missing in `--workdir`, just before it is measured: a classifier of noisy digits, and for each seed
digits_flow and its students. All samples of a seed are of these runs. Each row is measured for each seed: the Frechet
distance, precision and recall (k = 3) on the features of the classifier, against all training digits; the variance of
the pixels over that of the digits; and images/s on this machine, after compilation. The rows are kept in `--workdir` as
soon as they are known, with the digests of their runs. The same command continues after an interruption, and measures
only what is missing or was trained again. `--out` draws the quality against the evaluations, and samples of the first
seed.
"""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import _root  # noqa: F401
import jax
import numpy as np
from _few_steps_figure import STRIPS, figure
from _few_steps_runs import CLASSIFIER, folder_of, missing, train
from _few_steps_table import goals, table
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.extraction import Extraction
from ddpm_jax.evaluation.features import extractor
from ddpm_jax.evaluation.fitting import fit_chain
from ddpm_jax.evaluation.references import of_data
from ddpm_jax.metrics.frechet import frechet_distance, moments
from ddpm_jax.metrics.precision_recall import precision_recall
from ddpm_jax.runs import fitted
from ddpm_jax.runs.run import Run


class Method(NamedTuple):
    """A way to draw samples.

    Attributes:
      settings: of its chain, `config.sample`.
      run: the run, with a place for the number of evaluations.
      evaluations: the numbers of evaluations that are measured.
      stages: evaluations in a step.
    """

    settings: Mapping[str, object]
    run: str = "digits_flow"
    evaluations: tuple[int, ...] = (1, 2, 4, 8, 16, 50)
    stages: int = 1


_FITTED = (4, 8, 16)
_SHOWN = 32  # samples of a method in the figure
METHODS = {
    "ancestral": Method(
        {"sampler": "ancestral", "grid": "trailing", "variance": "large"}, evaluations=(1, 2, 4, 8, 16, 50, 1000)
    ),
    "Heun": Method({"sampler": "heun", "grid": "trailing"}, evaluations=(4, 8, 16, 50, 200), stages=2),
    "progressive": Method({"sampler": "ddim"}, run="progressive_{}", evaluations=(1, 2, 4)),
    "consistency": Method({"sampler": "consistency"}, run="digits_consistency", evaluations=(1, 2, 4)),
    "mean flow": Method({"sampler": "mean_flow"}, run="digits_mean_flow", evaluations=(1, 2, 4)),
    "DDIM": Method({"sampler": "ddim", "grid": "trailing"}),
    "DDIM (fitted)": Method({"sampler": "ddim", "grid": "fitted"}, evaluations=_FITTED),
    "ancestral (bound)": Method({"sampler": "ancestral", "grid": "bound", "variance": "analytic"}, evaluations=_FITTED),
    "DPM-Solver++(2M)": Method({"sampler": "dpm_solver_pp_2m", "grid": "trailing"}),
    "DPM-Solver++(3M)": Method({"sampler": "dpm_solver_pp_3m", "grid": "trailing"}),
    "UniPC": Method({"sampler": "unipc", "grid": "trailing"}),
    "DEIS": Method({"sampler": "deis", "grid": "trailing"}),
    "Adams-Bashforth": Method({"sampler": "adams_bashforth", "grid": "trailing"}),
}
FIRST = ("progressive", "consistency", "mean flow", "Heun", "ancestral")
"""What the goals are about is measured before all else."""

WORKDIR = flags.DEFINE_string("workdir", "runs/few_steps", "The folder of the runs and of the results.")
SEEDS = flags.DEFINE_integer("seeds", 3, "The number of seeds: trainings of each run.", lower_bound=1)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1000, "The number of samples of each row and seed.", lower_bound=16)
BATCH = flags.DEFINE_integer("batch_size", 250, "The number of images at a time.", lower_bound=1)
CHOSEN = flags.DEFINE_list("methods", list(METHODS), "The methods, separated by commas.")
EVALUATIONS = flags.DEFINE_list("evaluations", [], "The numbers of evaluations (default: all).")
OUT = flags.DEFINE_string("out", "", "The PNG file of the figure; none is drawn without it.")

Place = tuple[str, int, int]
"""A method, a number of evaluations and a seed."""
Key = tuple[str, int, int, str]
"""The same with the digest of the runs, see `Measure.digest`."""


class Measure:
    """Draws and measures samples of the runs of a folder.

    Args:
      workdir: the folder.
    """

    def __init__(self, workdir: Path) -> None:
        self._workdir, self._open = workdir, dict[Path, Run]()
        self._known: dict[str, Any] = {}

    def __call__(self, method: Method, evaluations: int, seed: int) -> dict[str, float]:
        """The figures of one row and seed."""
        run, num_steps = self._configured(method, evaluations, seed)
        run.chain(num_steps)(run.params, jax.random.key(1), indices=np.arange(BATCH.value))  # compiles
        begin = time.perf_counter()
        drawn = self._extraction.of_samples(run, num_images=NUM_SAMPLES.value, num_steps=num_steps)
        seconds = time.perf_counter() - begin
        known, given = (sets["classifier"].features("pool") for sets in (self._known, drawn))
        variances = [np.trace(sets["pixels"].moments("pool").cov) for sets in (drawn, self._known)]
        precision, recall = precision_recall(known, given)
        return {
            "fd": float(frechet_distance(moments(known), moments(given))),
            "precision": float(precision),
            "recall": float(recall),
            "variance": float(variances[0] / variances[1]),
            "images/s": NUM_SAMPLES.value / seconds,
        }

    def images(self, method: Method, evaluations: int, seed: int, num_images: int) -> np.ndarray:
        """Samples, of which image i always comes from the same noise: `[N, 8, 8, 1]` in 0..255."""
        run, num_steps = self._configured(method, evaluations, seed)
        return run.sample(num_images, num_steps=num_steps)

    def digest(self, method: Method, evaluations: int, seed: int) -> str:
        """The digests of the run that draws the samples and of the classifier."""
        run = self._run(folder_of(self._workdir, method.run.format(evaluations), seed))
        return f"{run.digest()} {self._known['classifier'].protocol['weights']}"

    def _configured(self, method: Method, evaluations: int, seed: int) -> tuple[Run, int]:
        """The run that draws the samples, and the steps of its chain."""
        run = self._run(folder_of(self._workdir, method.run.format(evaluations), seed))
        run.configure(eta=0.0, clip_x_0=False, **method.settings)
        if method.settings.get("grid") in ("fitted", "bound") and not fitted.path_of(run).exists():
            fit_chain(run, num_images=128, batch_size=128)
        return run, -(-evaluations // method.stages)

    def _run(self, folder: Path) -> Run:
        """The run, opened once; with the first one the features of the digits are computed."""
        if folder not in self._open:
            self._open[folder] = run = Run(folder)
            if not self._known:
                features = {"classifier": str(self._workdir / CLASSIFIER), "pixels": "pixels"}
                wanted = {name: (extractor(given), ("pool",)) for name, given in features.items()}
                self._extraction = Extraction(wanted, mesh=run.mesh, batch_size=BATCH.value)
                self._known = of_data(run.config)(self._extraction)
        return self._open[folder]


def wanted() -> Iterator[Place]:
    """The rows that were asked for, for each seed, the most important ones first."""
    chosen = sorted(CHOSEN.value, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    for important in (True, False):
        for name in chosen:
            for evaluations in METHODS[name].evaluations:
                first = name in FIRST[:3] or (name, evaluations) in (("Heun", 200), ("ancestral", 1000))
                if first == important and (not EVALUATIONS.value or str(evaluations) in EVALUATIONS.value):
                    yield from ((name, evaluations, seed) for seed in range(SEEDS.value))


def rows(workdir: Path) -> dict[Key, dict[str, Any]]:
    """The rows that are known, of as many samples."""
    file = workdir / "results.jsonl"
    lines = map(json.loads, file.read_text().splitlines() if file.exists() else [])
    return {
        (line["method"], line["evaluations"], line["seed"], line.get("runs", "")): line
        for line in lines
        if line["num_samples"] == NUM_SAMPLES.value
    }


def main() -> None:
    """Trains and measures what is missing, and prints the table and whether the goals hold."""
    if unknown := [name for name in CHOSEN.value if name not in METHODS]:
        raise UserError(f"--methods={unknown[0]} is none of: {', '.join(METHODS)}")
    workdir = Path(WORKDIR.value).absolute()
    measure, known, found = Measure(workdir), rows(workdir), []
    for name, evaluations, seed in wanted():
        for folder, arguments in missing(workdir, iter([METHODS[name].run.format(evaluations)]), seed):
            train(folder, arguments)
        place = METHODS[name], evaluations, seed
        key = name, evaluations, seed, measure.digest(*place)
        if key not in known:
            row = dict(zip(("method", "evaluations", "seed", "runs"), key, strict=True))
            known[key] = row | {"num_samples": NUM_SAMPLES.value, **measure(*place)}
            with (workdir / "results.jsonl").open("a") as file:
                file.write(json.dumps(known[key]) + "\n")
            print(", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{value}"
                            for name, value in known[key].items()), flush=True)  # fmt: skip
        found.append(known[key])
    print(table(found))
    print(goals(found))
    if OUT.value:
        shown = [place for place in STRIPS if place in {(row["method"], row["evaluations"]) for row in found}]
        samples = {place: measure.images(METHODS[place[0]], place[1], 0, _SHOWN) for place in shown}
        figure(found, samples).savefig(OUT.value)
        print(f"wrote {OUT.value}")


if __name__ == "__main__":
    cli.run(main, module=__name__)
