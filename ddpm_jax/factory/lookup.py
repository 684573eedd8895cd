"""Look-ups in the tables of names."""

from typing import Any, TypeVar, overload

from ddpm_jax.config import not_one_of
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


def plain(value: Any) -> Any:
    """A value of the configuration, in which a list becomes a tuple and everything else stays as it is."""
    return tuple(value) if isinstance(value, list | tuple) else value
