"""Look-ups in the tables of names."""

from typing import Any, TypeVar, overload

from ddpm_jax.config import CUSTOM, not_one_of
from ddpm_jax.errors import UserError

_Entry = TypeVar("_Entry")


@overload
def named(table: dict[str, _Entry], name: str, key: str) -> _Entry: ...
@overload
def named(table: tuple[str, ...], name: str, key: str) -> str: ...
def named(table: dict[str, Any] | tuple[str, ...], name: str, key: str) -> Any:
    """The entry of a table, or the name itself where `table` is a tuple of names.

    Args:
      table: the known names, a dict with the entry of each name or a tuple of names alone.
      name: the name that the configuration gives.
      key: its key in the configuration, for the message.

    Raises:
      UserError: the name is not in the table.
    """
    if name not in table:
        raise UserError(f"config.{key}={name!r} {not_one_of(name, table)}")
    return table[name] if isinstance(table, dict) else name


def check_given(given: object, name: str, *, key: str, argument: str) -> None:
    """Checks that an object is given exactly where the configuration names it `CUSTOM`.

    Args:
      given: the object, or None.
      name: the value in the configuration.
      key: its key.
      argument: the argument of `train` and of `Run` that takes such an object.

    Raises:
      UserError: the object is missing, or the configuration names another one.
    """
    if name == CUSTOM and given is None:
        raise UserError(f"config.{key} is {CUSTOM!r}: this run needs an object from your program, given as {argument}=")
    if name != CUSTOM and given is not None:
        raise UserError(f"{argument}= is given, and config.{key} is {name!r}, which names another one: leave it out")


def plain(value: Any) -> Any:
    """A value of the configuration, in which a list becomes a tuple and everything else stays as it is."""
    return tuple(value) if isinstance(value, list | tuple) else value
