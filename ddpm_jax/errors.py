"""The one exception a user is meant to read.

Everything that a person can mend (a wrong path, a mistyped key, a batch that does not divide) raises `UserError` with
one line that says what is wrong and what to do; the programs print that line without a traceback and exit with status
1; a notebook shows it alone.
"""


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
