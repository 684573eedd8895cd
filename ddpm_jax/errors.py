"""The one exception a user is meant to read.

Everything that a person can mend (a wrong path, a mistyped key, a batch that does not divide) raises `UserError` with
one line that says what is wrong and what to do; the programs print that line without a traceback and exit with status
1; a notebook shows it alone. What to do is often a command, which `program` names as it is started here.
"""

import errno
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_CLONE = Path(__file__).parents[1]
_LONGEST_WORD, _LONGEST_LINE = 200, 480  # characters
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the disk, one's quota, the limit of a file's size


class UserError(Exception):
    """A mistake in the input or the surroundings; the message is one line of less than 500 characters: what to do.

    Names from files may be in it, so it is made fit to print by `one_line`.
    """

    def __init__(self, message: object):
        super().__init__(one_line(message))

    def _render_traceback_(self):
        """What a notebook shows in place of a traceback (a hook of IPython's)."""
        return [f"error: {self}"]


class AgreedError(UserError):
    """A mistake of which every process of a run hears at the same step, so that they can end, and save, together."""


def one_line(text: object) -> str:
    """A text that may hold names from files, fit to print as one line of less than 500 characters.

    Whatever is no printable character (a newline, an escape) is shown by its code; long words lose their middle, and so
    does what is too long still, for the end often says what to do.
    """
    words = [_clipped(_printable(_clipped(word, _LONGEST_WORD)), _LONGEST_WORD) for word in str(text).split(" ")]
    return _clipped(" ".join(words), _LONGEST_LINE)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, by `one_line`, or its kind where it says nothing.

    TensorStore appends what it was asked for, in JSON, which is left out.
    """
    lines = str(error).strip().splitlines()
    return one_line(lines[0].partition(" [tensorstore_spec")[0].strip()) if lines else type(error).__name__


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, the one that it came from, the one before that, and so on to the one that all began with.

    An exception comes from its cause, and where it has none from what was being handled, unless `from None` denies it.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def system_error(error: BaseException) -> int | None:
    """The operating system's number of an error: that of an `OSError`, or the one in TensorStore's text; or None."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\[OS error (\d+)", str(error))
    return int(found[1]) if found else None


def lacks_space(error: BaseException) -> bool:
    """Whether an exception came from a full disk, a used-up quota, or a limit on the size of files."""
    return any(system_error(cause) in _FULL for cause in causes(error))


def _clipped(text: str, most: int) -> str:
    """A text of at most so many characters; of a longer one the first half and the last."""
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def program(name: str) -> str:
    """How a message writes a program: `python train.py` from a clone, `ddpm-train` where the package is installed.

    Args:
      name: train, sample or evaluate.
    """
    installed = Path(sys.argv[0]).name.startswith("ddpm-") or not (_CLONE / f"{name}.py").is_file()
    return f"ddpm-{name}" if installed else f"python {name}.py"
