"""The one exception a user is meant to read.

Everything that a person can mend (a wrong path, a mistyped key, a batch that does not divide) raises `UserError` with
one line that says what is wrong and what to do; the programs print that line without a traceback and exit with status
1; a notebook shows it alone.
"""


class UserError(Exception):
    """A mistake in the input or the surroundings; the message is one line that says what to do."""

    def _render_traceback_(self):
        """What a notebook shows in place of a traceback (a hook of IPython's)."""
        return [f"error: {self}"]
