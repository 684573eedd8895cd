"""What the status of a run says if the run is started again, and ends with an error before it is opened."""

import contextlib
from collections.abc import Iterator

from ddpm_jax.errors import AgreedError, TransientError, UserError
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import is_first
from ddpm_jax.training.heartbeat import NEEDS_YOU, Heartbeat, needs_a_person, read_status, status_file


@contextlib.contextmanager
def recorded_if_it_fails(workdir: AnyPath) -> Iterator[None]:
    """Writes an error of the body that a person must mend to the status of a run that existed before.

    Nothing is written while another process trains there, nor of a new run, which leaves nothing.

    Args:
      workdir: the run's directory, which need not exist.
    """
    try:
        yield
    except Exception as error:
        if needs_a_person(error) and (is_first() or not isinstance(error, AgreedError)):
            with contextlib.suppress(OSError):  # the error itself is what the user has to read
                _record(workdir, error)
        raise


def _record(workdir: AnyPath, error: Exception) -> None:
    """Writes the error to the status of a run, if there is one that nobody trains."""
    from ddpm_jax.training.restoring import newest_checkpoint  # these libraries take seconds to load
    from ddpm_jax.training.stores import store_of

    folder = workdir / "checkpoints"
    if not storage.exists(status_file(workdir)) and not storage.names(folder):
        return
    with contextlib.closing(store_of(folder, keep=lambda steps: steps)) as store:
        try:
            store.open()
        except TransientError:  # another process trains there, or the storage does not answer
            return
        except UserError:  # the list of the checkpoints is damaged, so nobody can train there
            newest = None
        else:
            newest = newest_checkpoint(workdir)
        status = read_status(workdir)
        num_steps = None if status is None else status.num_steps
        Heartbeat(workdir, num_steps, lambda: newest).write_end(NEEDS_YOU, error)
