"""The one exception that a user is meant to read.

Every mistake that a user can correct (a wrong path, a mistyped key, a batch that cannot be split evenly) raises
`UserError` with one line that says what is wrong and what to do. The programs print that line without a traceback and
exit with a code by its class (`commands/endings.py`); a notebook shows only the line. The remedy is often a command,
which `program` writes as the user can type it.
"""

import contextlib
import difflib
import errno
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from numbers import Integral
from pathlib import Path

_CLONE = Path(__file__).parents[1]
_LONGEST_NAME, _LONGEST_WORD, _LONGEST_LINE = 60, 200, 480  # characters
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space on the disk, quota exceeded, file too large
_PASSING = {errno.ETIMEDOUT, errno.ESTALE, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED}
_PASSING |= {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH}


class UserError(Exception):
    """A mistake in the input or the environment; the message is one line of less than 500 characters with a remedy.

    The message may contain names from files, so `one_line` makes it printable.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))

    def _render_traceback_(self) -> list[str]:
        """The lines that a notebook shows instead of a traceback (IPython calls this)."""
        return [f"error: {self}"]


class AgreedError(UserError):
    """A mistake that every process of a run raises at the same step, so that all can save and end together."""


class TransientError(UserError):
    """An error that may pass by itself, such as a lost connection: the same command, started again, may succeed."""


class BusyError(TransientError):
    """Another process has what this one asked for, such as a run that it trains."""


def one_line(text: object) -> str:
    """A text that may contain names from files, made printable as one line of less than 500 characters.

    Characters that are not printable (a newline, an escape) are replaced by their codes. Long words lose their middle,
    and so does a text that is still too long, because its end often says what to do.
    """
    words = [shortened(_printable(shortened(word, _LONGEST_WORD)), _LONGEST_WORD) for word in str(text).split(" ")]
    return shortened(" ".join(words), _LONGEST_LINE)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, as `one_line`, or the name of its class if the message is empty.

    TensorStore appends its request in JSON, which is left out.
    """
    lines = str(error).strip().splitlines()
    return one_line(lines[0].partition(" [tensorstore_spec")[0].strip()) if lines else type(error).__name__


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception, then the one from which it was raised, and so on back to the first one.

    An exception was raised from its cause or, if it has none, from the exception that was being handled, unless `from
    None` excludes that.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def system_error(error: BaseException) -> int | None:
    """The operating system's error number: that of an `OSError`, or the one in TensorStore's message; else None."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\[OS error (\d+)", str(error))
    return int(found[1]) if found else None


def is_transient(error: BaseException) -> bool:
    """Whether an exception came from something that may pass by itself: a connection, or storage that did not answer.

    That is a `TransientError`, a lost connection or a time that ran out, by the class, by the number of the operating
    system or by the code in TensorStore's message.
    """
    return any(
        isinstance(cause, TransientError | ConnectionError | TimeoutError)
        or system_error(cause) in _PASSING
        or re.match(r"(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED)\b", str(cause)) is not None
        for cause in causes(error)
    )


def lacks_space(error: BaseException) -> bool:
    """Whether an exception came from a full disk, a used-up quota, or a limit on the size of files."""
    return any(system_error(cause) in _FULL for cause in causes(error))


def shortened(text: object, most: int = 120) -> str:
    """The text itself, or the beginning and the end of a long text, at most `most` characters in all."""
    text = str(text)
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def listed(names: Iterable[object], most: int = 8) -> str:
    """Shortened names with commas between them: at most `most`, followed by the number of the others."""
    names = list(names)
    more = len(names) - most
    shown = ", ".join(shortened(name, _LONGEST_NAME) for name in names[:most])
    return shown + (f" and {more:,} more" if more > 0 else "")


def nearest(word: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names that a mistyped word may mean, the nearest one first; [] if none is similar.

    Upper and lower case count as equal. Names whose last part, after a slash, is the word are preferred.

    Args:
      word: the word that is not among the names.
      known: the names.
      most: how many names are returned at most.
      cutoff: the least similarity, from 0 to 1.
    """
    names = sorted(set(known))
    lower = {name: name.lower() for name in names}
    if within := [name for name in names if name.endswith(f"/{word}")]:
        return within[:most]
    close = difflib.get_close_matches(word.lower(), dict.fromkeys(lower.values()), n=most, cutoff=cutoff)
    return [name for entry in close for name in names if lower[name] == entry][:most]


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "", most: int = 1) -> str:
    """A question with the names that a mistyped word may mean, for a message; `otherwise` if none is similar."""
    close = nearest(word, known, most=most)
    return f"did you mean {' or '.join(repr(shortened(name, 40)) for name in close)}?" if close else otherwise


def check_counts(*, least: int = 1, **counts: int) -> None:
    """Raises a `UserError` that names the first of the arguments that is not a whole number of at least `least`."""
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < least:
            raise UserError(f"{name}={count!r} must be a whole number of at least {least}")


@contextlib.contextmanager
def writing(
    what: object, *, full: str = "free the disk or choose another place", other: str = "choose another place"
) -> Iterator[None]:
    """Turns an `OSError` in the body of the `with` statement, which writes something, into a `UserError` with a remedy.

    Args:
      what: the path that is written, or a description of it.
      full: the remedy if there is not enough space.
      other: the remedy for every other error that does not pass by itself.

    Raises:
      TransientError: the body raised an `OSError` that may pass by itself.
      UserError: it raised another `OSError`.
    """
    try:
        yield
    except OSError as error:
        failed = f"cannot write {what}: {error.strerror or first_line(error)}"
        if is_transient(error):
            raise TransientError(f"{failed}; start the same command again") from error
        raise UserError(f"{failed}; {full if lacks_space(error) else other}") from error


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an `OSError` into a `UserError` with a remedy; `path` is named where the error names no file."""
    try:
        yield
    except OSError as error:
        failed = f"cannot read {error.filename or path}: {error.strerror or first_line(error)}"
        if is_transient(error):
            raise TransientError(f"{failed}; start the same command again") from error
        raise UserError(f"{failed}; make it readable, or give another path") from error


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def program(name: str) -> str:
    """The command that starts a program, in the form in which this process was started: script, command or module.

    Args:
      name: "train", "sample" or "evaluate".
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
    """The command that starts a module of the package, such as "data.prepare", in the current directory."""
    command, started = f"python -m ddpm_jax.{name}", Path(sys.argv[0])
    found = _is_here(_CLONE) or _by_module() or started.name.startswith("ddpm-")
    of_clone = not found and _runs(_CLONE / "train.py", "train")  # which Python finds only through PYTHONPATH
    return f"PYTHONPATH={shlex.quote(str(_CLONE))} {command}" if of_clone else command


def _by_module() -> bool:
    """Whether this process was started by `python -m` with a module of the package; argv[0] is then its whole path."""
    return Path(sys.argv[0]).is_relative_to(_CLONE / "ddpm_jax")


def _runs(script: Path, name: str) -> bool:
    """Whether a file is the script of a program, and not just a file of the same name beside the package."""
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
    """A path relative to the current directory; absolute if that is shorter or if there is no current directory."""
    try:
        return min(os.path.relpath(path), str(path), key=len)
    except OSError:
        return str(path)


def _installed(name: str) -> str:
    """The installed command: its name if the shell finds it, else its path, or `python -m` if it does not exist."""
    command, started = f"ddpm-{name}", Path(sys.argv[0])
    beside = (started if started.name.startswith("ddpm-") else Path(sys.executable or "python")).with_name(command)
    found = shutil.which(command)
    if found and (not beside.exists() or os.path.samefile(found, beside)):
        return command
    return shlex.quote(str(beside)) if beside.exists() else f"python -m ddpm_jax.commands.{name}"
