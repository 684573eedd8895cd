"""Images for training: where they come from and how a batch of them is made.

A *source* is any object that satisfies `Source`: `len(source)` images of one shape, and `source[i]`, one
uint8 image with its label. This package has four: `Digits`, `ImageFolder`, `TfdsImages` and `ArrayImages`. A source of
your own is given to `dj.train(config, workdir, source=...)`.

How a batch is made: `batches` works out which images make the batch of step s, from (seed, s) alone; the
source reads and decodes each, crops and resizes it; the host stacks its share of them. Scaling to [-1, 1] and
the random flip belong to the train step, on the device.

Nothing here loads TensorFlow, except the command that prepares one of its data sets, once:
`python -m ddpm_jax.data.prepare --help`.

Read next: `source.py`, `pipeline.py`, `digits.py` (the smallest source), then `encoded.py` and
`transforms.py`.
"""

from ddpm_jax.data.digits import Digits
from ddpm_jax.data.folder import ImageFolder
from ddpm_jax.data.in_memory import ArrayImages
from ddpm_jax.data.pipeline import batch_indices, batches
from ddpm_jax.data.source import Example, Source, load
from ddpm_jax.data.tfds import TfdsImages

__all__ = [
    "ArrayImages",
    "Digits",
    "Example",
    "ImageFolder",
    "Source",
    "TfdsImages",
    "batch_indices",
    "batches",
    "load",
]
