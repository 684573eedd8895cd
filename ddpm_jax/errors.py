"""The one exception a user is meant to read.

Everything that a person can mend (a wrong path, a mistyped key, a batch that does not divide) raises `UserError` with
one line that says what is wrong and what to do; the programs print that line without a traceback and exit with status
1; a notebook shows it alone. What to do is often a command, which `program` names as it is started here.
"""

import contextlib
import errno
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_CLONE = Path(__file__).parents[1]
_LONGEST_NAME, _LONGEST_WORD, _LONGEST_LINE = 60, 200, 480  # characters
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
    words = [shortened(_printable(shortened(word, _LONGEST_WORD)), _LONGEST_WORD) for word in str(text).split(" ")]
    return shortened(" ".join(words), _LONGEST_LINE)


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


def shortened(text: object, most: int = 120) -> str:
    """The text itself, or of a long one the beginning and the end, at most `most` characters in all."""
    text = str(text)
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names with commas between them, of many the first few and how many more; each of them is short."""
    names = list(names)
    more = len(names) - most
    shown = ", ".join(shortened(name, _LONGEST_NAME) for name in names[:most])
    return shown + (f" and {more:,} more" if more > 0 else "")


@contextlib.contextmanager
def writing(
    what: object, *, full: str = "free the disk or choose another place", other: str = "choose another place"
) -> Iterator[None]:
    """Turns what the system says of something that is being written into a `UserError` with a remedy.

    Args:
      what: its path, or what it is in words.
      full: the remedy where there is no room for it.
      other: the remedy for everything else.
    """
    try:
        yield
    except OSError as error:
        remedy = full if lacks_space(error) else other
        raise UserError(f"cannot write {what}: {error.strerror or first_line(error)}; {remedy}") from error


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def program(name: str) -> str:
    """How to type a program where this process was started, as this process was: script, command or module.

    Args:
      name: train, sample or evaluate.
    """
    script = _CLONE / f"{name}.py"
    if Path(sys.argv[0]).name.startswith("ddpm-"):
        return _installed(name)
    if _runs(script, name) and _is_here(_CLONE):
        return f"python {name}.py"
    if _by_module():
        return f"python -m ddpm_jax.commands.{name}"
    return f"python {shlex.quote(_from_here(script))}" if _runs(script, name) else _installed(name)


def module(name: str) -> str:
    """How to type a module of the package that is a program, such as "data.prepare", where this process was started."""
    command, started = f"python -m ddpm_jax.{name}", Path(sys.argv[0])
    found = _is_here(_CLONE) or _by_module() or started.name.startswith("ddpm-")
    of_clone = not found and _runs(_CLONE / "train.py", "train")  # which Python finds only where it is told to look
    return f"PYTHONPATH={shlex.quote(str(_CLONE))} {command}" if of_clone else command


def _by_module() -> bool:
    """Whether this process was started by `python -m` with a module of the package, whose whole path argv then has."""
    return Path(sys.argv[0]).is_relative_to(_CLONE / "ddpm_jax")


def _runs(script: Path, name: str) -> bool:
    """Whether a file is the script of a program, not just one of its name beside the package."""
    try:
        return f"ddpm_jax.commands.{name}" in script.read_text(errors="replace")
    except OSError:
        return False


def _is_here(folder: Path) -> bool:
    """Whether this is the current directory, which may have been deleted."""
    try:
        return os.path.samefile(folder, os.curdir)
    except OSError:
        return False


def _from_here(path: Path) -> str:
    """A path relative to the current directory, or absolute where that is shorter or there is none."""
    try:
        return min(os.path.relpath(path), str(path), key=len)
    except OSError:
        return str(path)


def _installed(name: str) -> str:
    """The installed command: by its name if the shell finds this one, by its path otherwise, or else as a module."""
    command, started = f"ddpm-{name}", Path(sys.argv[0])
    beside = (started if started.name.startswith("ddpm-") else Path(sys.executable or "python")).with_name(command)
    found = shutil.which(command)
    if found and (not beside.exists() or os.path.samefile(found, beside)):
        return command
    return shlex.quote(str(beside)) if beside.exists() else f"python -m ddpm_jax.commands.{name}"
