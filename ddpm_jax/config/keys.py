"""What the schema says about a configuration key, as types, and the rules that its values obey."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

CUSTOM = "custom"
"""The name in a configuration for an object that a program gives."""


class Rule(NamedTuple):
    """What every value of a key obeys.

    Attributes:
      words: the rule after "must", such as "be at least 1".
      fits: whether a value obeys it.
    """

    words: str
    fits: Callable[[Any], object]


COUNT = Rule("be at least 1", lambda value: value >= 1)
SEVERAL = Rule("be at least 2", lambda value: value >= 2)
NOT_NEGATIVE = Rule("be 0 or a positive number", lambda value: 0 <= value < math.inf)
POSITIVE = Rule("be greater than 0", lambda value: 0 < value < math.inf)
FRACTION = Rule("be at least 0 and less than 1", lambda value: 0 <= value < 1)
SHARE = Rule("be at least 0 and at most 1", lambda value: 0 <= value <= 1)
SEED = Rule("be at least 0 and less than 2**32", lambda value: 0 <= value < 2**32)
INTEGERS = Rule("contain only whole numbers", lambda value: all(isinstance(item, int) for item in value))
STEPS = Rule(
    "contain numbers of steps, from 1", lambda value: INTEGERS.fits(value) and all(item >= 1 for item in value)
)
COUNTS = Rule(
    "contain a number of at least 1 for each level", lambda value: INTEGERS.fits(value) and value and min(value) >= 1
)
NAMES = Rule(
    "contain names, each only once",
    lambda value: all(isinstance(item, str) for item in value) and len(set(value)) == len(value),
)
BOX = Rule("contain no or four whole numbers", lambda value: len(value) in (0, 4) and INTEGERS.fits(value))


class Needs(NamedTuple):
    """A condition on another key, without which a key has no effect.

    Attributes:
      key: the other key.
      words: its values, after the key: "=vlb", " of at least 1".
      holds: whether a value of the other key meets the condition.
    """

    key: str
    words: str
    holds: Callable[[Any], bool]


def needs(key: str, *values: object) -> Needs:
    """The condition that another key has one of these values."""
    return Needs(key, f"={' or '.join(map(str, values))}", lambda value: value in values)


def needs_some(key: str) -> Needs:
    """The condition that another key, a count, is not 0."""
    return Needs(key, " of at least 1", lambda value: value >= 1)


@dataclasses.dataclass(frozen=True)
class Key:
    """A configuration key.

    Attributes:
      default: its default, whose type is the type of all values.
      help: its meaning.
      rule: what its values obey besides the type, or None.
      choices: its values if it is a name, those of its items if it is a tuple of names, or ().
      fixed: whether it must stay as it is when a run is resumed; None for what its group says.
      needs: the conditions under which it has an effect.
    """

    default: Any
    help: str
    rule: Rule | None = None
    choices: tuple[str, ...] = ()
    fixed: bool | None = None
    needs: tuple[Needs, ...] = ()


class Group(NamedTuple):
    """Keys that belong together.

    Attributes:
      help: what they describe.
      keys: the keys by name.
      fixed: whether they must stay as they are when a run is resumed, unless a key says otherwise.
    """

    help: str
    keys: Mapping[str, Key]
    fixed: bool = False
