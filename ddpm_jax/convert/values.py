"""Rules for the values of foreign settings, as a test and in words, and how values are shown in messages.

Read next: `folders.py`.
"""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ddpm_jax.errors import UserError

# Whether a value is allowed, and what is allowed, in words.
Rule: TypeAlias = tuple[Callable[[Any], bool], str]
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxlist, _SHOWN.maxdict, _SHOWN.maxstring = 3, 12, 4, 60


def shown(value: Any) -> str:
    """A value from a file as Python writes it, shortened to fit a message."""
    return _SHOWN.repr(value)


def whole(value: Any, most: int = 1_000_000) -> bool:
    """Whether this is a whole number from 1 to `most`."""
    return type(value) is int and 1 <= value <= most


def each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A test for non-empty lists all of whose items pass the test `fits`."""
    return lambda value: type(value) is list and bool(value) and all(map(fits, value))


def or_none(rule: Rule) -> Rule:
    """The rule that also allows null."""
    return lambda value: value is None or rule[0](value), f"{rule[1]}, or null"


def _word(value: Any) -> bool:
    """Whether this is a string."""
    return type(value) is str


COUNT: Rule = (whole, "a whole number from 1 to 1,000,000")
COUNTS: Rule = (each(whole), f"a list, each {COUNT[1]}")
POSITIVE: Rule = (lambda value: type(value) in (int, float) and 0 < value < 1e9, "a number above 0")
FRACTION: Rule = (lambda value: type(value) in (int, float) and 0 <= value <= 1, "a number from 0 to 1")
FLAG: Rule = (lambda value: type(value) is bool, "true or false")
NAME: Rule = (_word, "a name")
NAMES: Rule = (each(_word), "a list of names")


def check_values(file: str, settings: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raises a UserError that names the first value that breaks the rule for its key."""
    for key, (fits, words) in rules.items():
        if key in settings and not fits(settings[key]):
            raise UserError(f"{file}: {key}={shown(settings[key])} must be {words}")


def ours(table: Mapping[Any, Any], theirs: Any, key: str) -> Any:
    """Our value for a foreign one, from a table that maps our values to the foreign ones.

    Args:
      table: `{our value: foreign value}`.
      theirs: the foreign value.
      key: the name of the foreign setting, for the message.

    Raises:
      UserError: the foreign value is not in the table.
    """
    for value, foreign in table.items():
        if foreign == theirs and type(foreign) is type(theirs):
            return value
    known = ", ".join(str(value) for value in table.values())
    raise UserError(f"{key}={shown(theirs)} is not supported; supported are: {known}")
