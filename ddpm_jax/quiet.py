"""What libraries print of their insides is kept from the user, whether a program or a notebook uses ours.

Orbax logs the traceback of everything that fails in its threads, and then raises it where it is waited for: on a full
disk three tracebacks would surround the one line that says what to do. Whoever wants to see them asks for absl's log at
the level INFO: `--verbosity=0` of a program, `absl.logging.set_verbosity("info")` in a notebook. libtpu asks the
machine where it is, and prints errors where that is no TPU, as when a step is compiled for one on a laptop.
"""

import logging
import os
from pathlib import Path

import absl.logging

_NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-1", "TPU_WORKER_HOSTNAMES": "localhost"}


def quieten_libtpu(devices: Path = Path("/dev")) -> None:
    """Answers for a machine without a TPU what libtpu would ask of it; to be called before JAX looks for devices.

    Args:
      devices: the folder in which the system shows its devices; a TPU's are `accel*` or `vfio/*`.
    """
    if any(devices.glob("accel*")) or any(devices.glob("vfio/*")):
        return
    for name, value in _NO_TPU.items():
        os.environ.setdefault(name, value)


def quieten_orbax() -> None:
    """Leaves what fails inside Orbax to the exception that it raises; for good, as its threads outlive its objects."""
    for logger in (absl.logging.get_absl_logger(), logging.getLogger("asyncio")):
        logger.addFilter(_is_not_orbax)  # once, however often it is called


def _is_not_orbax(record: logging.LogRecord) -> bool:
    """Whether a record is of interest; what asyncio says of a task names the file that began it."""
    if absl.logging.get_verbosity() >= absl.logging.INFO:
        return True
    place = record.getMessage() if record.name == "asyncio" else record.pathname
    return "orbax" not in place
