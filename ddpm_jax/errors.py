"""The one exception a user is meant to read.

Everything that a person can mend (a wrong path, a mistyped key, a batch that does not divide) raises `UserError` with
one line that says what is wrong and what to do; the programs print that line without a traceback and exit with status
1; a notebook shows it alone. What to do is often a command, which `program` names as it is started here.
"""

import sys
from pathlib import Path

_CLONE = Path(__file__).parents[1]


class UserError(Exception):
    """A mistake in the input or the surroundings; the message is one line that says what to do.

    Names from files may be in it, so whatever is no printable character (a newline, an escape) is shown by its code.
    """

    def __init__(self, message):
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(message)))

    def _render_traceback_(self):
        """What a notebook shows in place of a traceback (a hook of IPython's)."""
        return [f"error: {self}"]


def first_line(error):
    """The first line of what an exception says, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def program(name: str) -> str:
    """How a message writes a program: `python train.py` from a clone, `ddpm-train` where the package is installed.

    Args:
      name: train, sample or evaluate.
    """
    installed = Path(sys.argv[0]).name.startswith("ddpm-") or not (_CLONE / f"{name}.py").is_file()
    return f"ddpm-{name}" if installed else f"python {name}.py"
