"""What is said when a run is opened: that there is none, or that its network may be another one."""

import flax.linen as nn

from ddpm_jax import errors, factory
from ddpm_jax.errors import UserError, nearest, reading, shortened
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import as_flag


def check_there(workdir: AnyPath) -> None:
    """Raises a `UserError` if there is no such folder, with the nearest run beside it."""
    if _is_folder(workdir):
        return
    beside = [name for name in _listed(workdir.parent) if _is_folder(workdir.parent / name / "checkpoints")]
    near = nearest(str(workdir), [str(workdir.parent / name) for name in beside], cutoff=0.8)
    hint = f"did you mean {near[0]}? Or train one" if near else "train one"
    train = f"{errors.program('train')} {as_flag('workdir', workdir)}"
    raise UserError(f"there is no run in {workdir}; {hint} with: {train}")


def _is_folder(folder: AnyPath) -> bool:
    """Whether there is such a folder; raises a `UserError` if that cannot be known."""
    with reading(folder):
        return storage.is_dir(folder)


def _listed(folder: AnyPath) -> list[str]:
    """The names of what is in a folder; none if it cannot be listed."""
    try:
        return storage.names(folder)
    except OSError:
        return []


def note_another(network: nn.Module | None, trained: str) -> None:
    """Prints a note if a network is given that is described in other words than the one that was trained."""
    given = factory.described(network)
    if given and trained and given != trained:
        print(f"note: the run was trained with the network {shortened(trained)}, not {shortened(given)}", flush=True)
