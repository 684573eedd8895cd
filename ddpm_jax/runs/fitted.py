"""What is measured of a run for its short chains, kept in `WORKDIR/fitted`. Read next: `evaluation/fitting.py`."""

import io
import json
from typing import Any, NamedTuple, Protocol

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.diffusion.sequences import ChainFit
from ddpm_jax.errors import UserError, program, reading
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import as_flag


class Opened(Protocol):
    """What is read here of an opened `Run`: where it is, its configuration, and which parameters it has."""

    workdir: AnyPath
    params_name: str
    config: ConfigDict

    def digest(self) -> str:
        """The digest of its network."""
        ...


class Fitted(NamedTuple):
    """A `ChainFit` and how it was measured.

    Attributes:
      fit: the `ChainFit`.
      about: values of JSON, among them "network", the digest of the network, "variance" and "num_images".
    """

    fit: ChainFit
    about: dict[str, Any]


def path_of(run: Opened) -> AnyPath:
    """The file of a run and of the parameters that it was opened with."""
    return run.workdir / "fitted" / f"{run.params_name}.npz"


def write(run: Opened, fitted: Fitted) -> AnyPath:
    """Writes what was measured of a run, whole; returns the path.

    Raises:
      UserError: it cannot be written.
    """
    path = path_of(run)
    about = np.array(json.dumps(fitted.about))
    storage.write_whole(path, lambda temporary: np.savez(temporary, about=about, **fitted.fit._asdict()))
    return path


def read(run: Opened) -> Fitted:
    """What was measured of a run.

    Raises:
      UserError: nothing was measured, of another network, or the file is damaged.
    """
    path, command = path_of(run), f"{program('evaluate')} {as_flag('workdir', run.workdir)} --fit_chain"
    command += "" if run.params_name == "ema" else f" --params={run.params_name}"
    with reading(path):
        if not storage.exists(path):
            raise UserError(
                f"{run.workdir} has no measurements for sample.grid=bound or fitted and sample.variance=analytic: "
                f"make them with {command}"
            )
        content = storage.read_bytes(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            fit = ChainFit(**{name: np.asarray(file[name], np.float64) for name in ChainFit._fields})
        shape = (run.config.diffusion.num_timesteps,) * 2
        if (fit.terms.shape, fit.jumps.shape, fit.x_0_mse.shape) != (shape, shape, shape[:1]):
            raise ValueError("another number of times")
        network = about["network"]
    except Exception as error:  # NumPy raises many kinds for damaged files
        raise UserError(f"{path} is damaged: make it again with {command}") from error
    if network != run.digest():
        raise UserError(f"{path} was measured of other parameters (step {about.get('step')}): repeat {command}")
    return Fitted(fit, about)
