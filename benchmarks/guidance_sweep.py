"""Measures how often guidance gives the requested digit, and its cost in recall, for several scales on the digits.

  python benchmarks/guidance_sweep.py

Needs trained runs of configs/digits.py, digits_conditional.py and digits_classifier.py. For each scale, 500 images, 50
of each class, are drawn by the conditional model (classifier-free) and by the unconditional model with the classifier.
Agreement is the share of images that a support vector machine, trained on the training split, reads as the requested
digit; precision measures quality, recall measures diversity, and the Frechet distance of pixels in [-1, 1] sees both.
Writes a plot of all three.
"""

from collections.abc import Callable, Iterable
from typing import TypeAlias

import _root  # noqa: F401
import numpy as np
from _digits_features import NUM, pixels, quality, real
from absl import flags
from sklearn.svm import SVC

from ddpm_jax.commands import cli
from ddpm_jax.data.digits import Digits
from ddpm_jax.evaluation import plots
from ddpm_jax.runs.chain import draw
from ddpm_jax.runs.run import Run

FREE = flags.DEFINE_string("conditional_workdir", "runs/digits_conditional", "The run of the conditional model.")
PLAIN = flags.DEFINE_string("workdir", "runs/digits", "The run of the unconditional model.")
CLASSIFIER = flags.DEFINE_string("classifier_workdir", "runs/digits_classifier", "The run of the classifier.")
SCALES = flags.DEFINE_list("guidance_scales", "0,1,1.5,2,3,5", "The guidance scales for the conditional model.")
CLASSIFIER_SCALES = flags.DEFINE_list("classifier_scales", "0,1,2,4,8,16", "The guidance scales for the classifier.")
SAMPLER = flags.DEFINE_string("sampler", "ddim", "The sampler.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 50, "The number of steps of the chain.")
OUT = flags.DEFINE_string("out", "runs/guidance.png", "The PNG file for the plot.")

Row: TypeAlias = tuple[float, float, float, float, float]
"""A scale, and the agreement, precision, recall and Frechet distance at this scale."""


def reader() -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """A function from images to the digits that a support vector machine predicts, and its test accuracy."""
    machine = SVC(gamma=0.001 / (255 / 16) ** 2).fit(pixels(real("train")), labels("train"))
    return lambda images: machine.predict(pixels(images)), machine.score(pixels(real("test")), labels("test"))


def labels(split: str) -> np.ndarray:
    """The classes of a split, `[N]`."""
    source = Digits(split)
    return np.array([source[i]["label"] for i in range(len(source))])


def sweep(run: Run, key: str, scales: Iterable[str], read: Callable[[np.ndarray], np.ndarray]) -> list[Row]:
    """Measures one method of guidance at all scales, and prints each row as soon as it is known.

    Args:
      run: the run to draw from.
      key: the setting of the scale in `config.sample`.
      scales: the scales, as text.
      read: function from images `[N, 8, 8, 1]` to digits `[N]`.
    """
    rows = []
    for scale in map(float, scales):
        run.configure(sampler=SAMPLER.value, labels="all", **{key: scale})
        chain = run.chain(NUM_STEPS.value)
        images = draw(chain, run.params, seed=0, indices=np.arange(NUM), batch_size=100)
        agreement = float(np.mean(read(images) == np.arange(NUM) % 10))
        precision, recall, frechet = quality(images)
        rows.append((scale, agreement, precision, recall, frechet))
        print(
            f"{key:<18}{scale:6g}  {agreement:9.3f}  {precision:9.3f}  {recall:6.3f}  {frechet:21.3f}",
            flush=True,
        )
    return rows


def main() -> None:
    """Prints the table and writes the plot."""
    read, score = reader()
    print(f"{NUM} images per row, {SAMPLER.value} {NUM_STEPS.value} steps; the reader reads {score:.3f} of test digits")
    print(f"{'':<26}agreement  precision  recall  FD, pixels in [-1, 1]")
    free = sweep(Run(FREE.value), "guidance_scale", SCALES.value, read)
    guided = sweep(Run(PLAIN.value).guide(Run(CLASSIFIER.value)), "classifier_scale", CLASSIFIER_SCALES.value, read)
    methods = {"classifier-free": free, "classifier and unconditional model": guided}
    plots.guidance_costs(methods).savefig(OUT.value, dpi=110)


if __name__ == "__main__":
    cli.run(main, module=__name__)
