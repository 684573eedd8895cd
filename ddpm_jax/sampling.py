"""The sampling job: a trained run opened, and its images written as a grid, an array, a folder or a moving picture.

Read next: `chain.py`, `samplers/driver.py`.
"""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np

from ddpm_jax import build, checkpoint
from ddpm_jax.chain import Chain, draw
from ddpm_jax.config import changes, from_json, in_words, to_json
from ddpm_jax.errors import UserError
from ddpm_jax.images import check_writable, grid, save_gif, save_png, to_uint8, write_whole
from ddpm_jax.parallel import device_mesh, replicated
from ddpm_jax.progress import progress_bar


class Run:
    """A trained run opened for sampling: everything is read from its work directory.

    Args:
      workdir: the run's directory.
      params: "ema" for the averaged parameters, "raw" for the trained ones.

    Raises:
      UserError: there is no run, or no checkpoint yet.
    """

    def __init__(self, workdir, *, params="ema"):
        if not Path(workdir).is_dir():
            raise UserError(f"there is no run in {workdir}; train one with: python train.py --workdir={workdir}")
        stored = checkpoint.stored_config(workdir)
        if stored is None:
            raise UserError(f"{workdir} has no checkpoint yet; train first, or wait for the first save")
        self.workdir, self.config, self.params_name = Path(workdir), from_json(stored), params
        self.mesh, data = device_mesh(), self.config.data
        self.shape = (data.image_size, data.image_size, data.channels)
        self.model = build.network(self.config)
        shapes = jax.eval_shape(build.initial_params(self.config, self.model), jax.random.key(0))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(self.mesh)), shapes)
        name = {"ema": "ema_params", "raw": "params"}[params]
        self.step, self.params = checkpoint.restore_params(workdir, shapes, name=name)

    def configure(self, **settings):
        """Changes keys of `config.sample`, leaving out those that are None; returns the run."""
        chosen = {key: value for key, value in settings.items() if value is not None}
        self.config.sample.update(chosen)
        return self

    def denoiser(self):
        """A function from parameters to the run's `Denoiser`, clipped as configured."""
        return build.denoiser(self.config, self.model)

    def chain(self, num_steps=0):
        """The compiled chain of the run's sampler; `num_steps` 0 takes as many as its configuration says."""
        return chain_of(self.config, self.model, num_steps=num_steps or self.config.sample.num_steps, mesh=self.mesh)


def chain_of(config, model, *, num_steps, mesh):
    """The `Chain` that a configuration describes, with the given number of moves (0 for all T)."""
    data = config.data
    return Chain(
        build.sampler(config),
        build.denoiser(config, model),
        settings=build.sampler_settings(config),
        transitions=build.sampling_transitions(config, num_steps),
        shape=(data.image_size, data.image_size, data.channels),
        mesh=mesh,
    )


def sample_run(run, out, *, num_images, seed, num_steps=0, batch_size=64):
    """Draws images of a run into a file or a folder.

    Args:
      run: `Run`.
      out: `FILE.png` for a grid, `FILE.npz` for `arr_0` uint8 `[N, H, W, C]`, or a folder for one PNG an image. A
        folder half done is continued.
      num_images: how many.
      seed: integer.
      num_steps: of the chain; 0 takes what the run's configuration says.
      batch_size: images at a time.

    Returns:
      The path written.

    Raises:
      UserError: the place cannot be written, or the folder holds images of other settings.
    """
    is_folder, out = str(out).endswith("/") or Path(out).is_dir(), Path(out)
    chain, indices = run.chain(num_steps), np.arange(num_images)
    options = {"seed": seed, "batch_size": min(batch_size, num_images)}
    if is_folder or not out.suffix:
        settings = {"workdir": str(run.workdir.resolve()), "step": run.step, "params": run.params_name, "seed": seed}
        settings["sample"] = {**to_json(run.config.sample), "num_steps": chain.num_moves}
        missing = _open_folder(out, settings, indices)
        draw(chain, run.params, indices=missing, sink=partial(_save_images, out), **options)
        return out
    if out.suffix not in (".png", ".npz"):
        raise UserError(f"--out={out}: end it with .png (a grid), .npz (an array) or / (a folder)")
    check_writable(out)
    images = draw(chain, run.params, indices=indices, **options)
    if out.suffix == ".png":
        save_png(out, grid(images))
    else:
        write_whole(out, lambda path: np.savez(path, arr_0=images))
    return out


def sample_trajectory(run, out, *, num_images, seed, num_steps=0, num_frames=60):
    """Writes the chain of the first images as a GIF of grids, from noise to pictures; returns its path."""
    if Path(out).suffix != ".gif":
        raise UserError(f"--trajectory={out}: end it with .gif")
    check_writable(out)
    chain = run.chain(num_steps)
    with progress_bar(chain.num_moves, "trajectory", unit="move") as bar:
        key, indices = jax.random.key(seed), np.arange(num_images)
        frames = chain(run.params, key, indices=indices, num_frames=num_frames, progress=bar.update)
    save_gif(out, np.stack([grid(to_uint8(frame)) for frame in frames]))
    return Path(out)


def _open_folder(folder, settings, indices):
    """Makes or continues a folder of samples; returns the indices that are not there yet."""
    record = folder / "sampling.json"
    if record.exists():
        clashes = changes(json.loads(record.read_text()), settings)
        if clashes:
            raise UserError(f"{folder} holds other samples: {in_words(clashes)}; choose another folder")
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} holds other files; choose an empty or new folder")
    else:
        write_whole(record, lambda path: path.write_text(json.dumps(settings)))
    return [i for i in indices if not (folder / f"{i:06d}.png").exists()]


def _save_images(folder, indices, images):
    """One PNG an image, named by its index."""
    for index, image in zip(indices, images, strict=True):
        save_png(folder / f"{index:06d}.png", image)
