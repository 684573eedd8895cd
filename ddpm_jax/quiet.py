"""What libraries print of their insides is kept from the user, whether a program or a notebook uses ours.

Orbax logs the traceback of everything that fails in its threads, and then raises it where it is waited for: on a full
disk three tracebacks would surround the one line that says what to do. Whoever wants to see them asks for absl's log at
the level INFO: `--verbosity=0` of a program, `absl.logging.set_verbosity("info")` in a notebook.
"""

import logging

import absl.logging


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
