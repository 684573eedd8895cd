"""Every key of the schema as text: for `python train.py --help_config`, and as the page `docs/configuration.md`."""

import textwrap

from ddpm_jax.config.keys import Key
from ddpm_jax.config.schema import GROUPS, KEYS

_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", tuple: "a tuple"}
_INTRODUCTION = """# Configuration

This page is generated from [`ddpm_jax/config/schema.py`](../ddpm_jax/config/schema.py) by

```sh
python -m ddpm_jax.config > docs/configuration.md
```

`python train.py --help_config` prints the same. A key is changed on the command line, after `--config`:

```sh
python train.py --config=configs/celeba.py --config.optim.learning_rate=1e-4
```

or in an experiment of [`../configs/`](../configs), which starts from the defaults, `experiment("base")`. A key that is
marked **fixed** must have the same value when a run is resumed. Training does not start a new run if a key that you
set has no effect because of another key.
"""


def values(key: Key) -> str:
    """The values that a key may have, in words."""
    if key.choices:
        several = "a tuple of: " if type(key.default) is tuple else ""
        return several + ", ".join(key.choices)
    kind = _KINDS[type(key.default)]
    if key.rule is None:
        return kind
    if type(key.default) is tuple:
        return f"{kind}, which must {key.rule.words}"
    return f"{kind}, {key.rule.words.removeprefix('be ')}"


def conditions(key: Key) -> str:
    """The conditions under which a key has an effect, in words; "" if it always has one."""
    return " and ".join(need.key + need.words for need in key.needs)


def shown(default: object) -> str:
    """A default as it is written on the command line."""
    return str(default).replace(", ", ",")


def as_text() -> str:
    """Every key with default, meaning, values and conditions, for a terminal of 100 columns."""
    lines = []
    for name, group in GROUPS.items():
        lines.append(f"\n{group.help.replace('`', '')}:\n")
        for path in _paths(name):
            key, more = KEYS[path], conditions(KEYS[path])
            facts = [values(key)] + [f"only with {more}"] * bool(more) + ["fixed for a run"] * bool(key.fixed)
            lines.append(f"  --config.{path}={shown(key.default)}")
            for text in (key.help, f"[{'; '.join(facts)}]"):
                lines += textwrap.wrap(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines).lstrip("\n")


def as_markdown() -> str:
    """The page `docs/configuration.md`, without the newline at its end."""
    parts = [_INTRODUCTION]
    for name, group in GROUPS.items():
        rows = ["| key | default | meaning | values |", "|---|---|---|---|", *map(_row, _paths(name))]
        parts.append("\n".join([f"## {group.help}", "", *rows, ""]))
    return "\n".join(parts).rstrip()


def _paths(group: str) -> list[str]:
    """The paths of the keys of a group."""
    return [f"{group}.{last}" if group else last for last in GROUPS[group].keys]


def _row(path: str) -> str:
    """The line of the table for one key."""
    key = KEYS[path]
    more, default = conditions(key), shown(key.default) if key.default != "" else '""'
    allowed = values(key) + (f"; only with {more}" if more else "") + ("; **fixed**" if key.fixed else "")
    return f"| `{path}` | `{default}` | {_text(key.help)} | {_text(allowed)} |"


def _text(words: str) -> str:
    """Words without the signs that Markdown would take for markup."""
    bold = words.split("**fixed**")
    plain = [part.replace("*", r"\*").replace("|", r"\|").replace("_", r"\_").replace("[", r"\[") for part in bold]
    return "**fixed**".join(plain)
