"""What every table of names needs."""

from ddpm_jax.errors import UserError


def named(table, name, key):
    """The entry of a table, or the name itself in a set of names."""
    if name not in table:
        raise UserError(f"config.{key}={name!r} is not one of: {', '.join(table)}")
    return table[name] if isinstance(table, dict) else name


def plain(value):
    """Tuples out of whatever sequence the configuration holds."""
    return tuple(value) if isinstance(value, list | tuple) else value
