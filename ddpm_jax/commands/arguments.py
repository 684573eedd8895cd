"""The command line before absl parses it: the configuration file, and the keys and values that change it.

Each is checked against the schema of `ddpm_jax.config`, so that a mistake is one line that names the remedy.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from ddpm_jax.config import GROUPS, KEYS, experiment_file, experiment_names, unknown_key
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.runtime import paths

_CONFIG = "config"  # the flag of the configuration file; --config.KEY=VALUE changes a key of it
_PARSERS: dict[str, tuple[flags.ArgumentParser, str]] = {
    "int": (flags.IntegerParser(), "a whole number"),
    "float": (flags.FloatParser(), "a number"),
    "bool": (flags.BooleanParser(), "True or False"),
}


def checked(argv: Sequence[str]) -> list[str]:
    """The command line, in which the value of `--config` is an existing file, also where it was an experiment's name.

    An argument of `get_config` may follow the file or the name, after a colon.

    Raises:
      UserError: the file, the experiment or the key does not exist, or a value cannot be read as a number.
    """
    has_config = _CONFIG in flags.FLAGS
    argv = _with_config_file(argv) if has_config else list(argv)
    early = ""
    for name, value in _settings(argv):
        if has_config and name == _CONFIG:
            if early:
                raise UserError(f"put --config=FILE before --{early}")
            continue
        group, _, path = name.partition(".")
        if has_config and path and group in (_CONFIG, f"no{_CONFIG}"):
            early = early or (name if value is None else f"{name}={value}")
            _check_key(name, path, value)
        else:
            _check_flag(name, value, has_config=has_config)
    return argv


def explained(error: flags.Error) -> str:
    """One line for an error of absl about a flag."""
    if isinstance(error, flags.UnrecognizedFlagError):
        near = nearest(error.flagname.partition(".")[0], flags.FLAGS)
        if not near and _CONFIG in flags.FLAGS:
            last = {path.rpartition(".")[2]: f"{_CONFIG}.{path}" for path in KEYS}
            near = [last[name] for name in nearest(error.flagname, last)]
        return f"there is no flag --{error.flagname}; " + (f"did you mean --{near[0]}?" if near else "see --help")
    text = " ".join(str(error).split())
    missing = text.removeprefix("flag --").partition("=None: ")[0]
    if missing in flags.FLAGS and text.endswith("must have a value other than None."):
        return f"--{missing} is missing: {flags.FLAGS[missing].help} See --help"
    return text


def _settings(argv: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The flags of a command line, each with the value after its equals sign or in the next argument, or with None."""
    arguments = iter(argv[1:])
    for argument in arguments:
        if argument == "--":
            return
        if argument.startswith("-") and argument.strip("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            yield name, value if equals else None if _is_boolean(name) else next(arguments, None)


def _is_boolean(name: str) -> bool:
    """Whether a flag, or the key of the configuration that it changes, needs no value; so does every unknown one."""
    path = name.partition(".")[2]
    if path in KEYS:
        return isinstance(KEYS[path].default, bool)
    return name not in flags.FLAGS or flags.FLAGS[name].boolean


def _check_key(name: str, path: str, value: str | None) -> None:
    """Checks a flag `--config.PATH=VALUE`, or one of a group of keys; raises a UserError if there is no such key."""
    if path not in KEYS and path not in GROUPS:
        raise UserError(f"--{name}: {unknown_key(path)}")
    if path in KEYS:
        _check_value(name, value, type(KEYS[path].default).__name__)


def _check_flag(name: str, value: str | None, *, has_config: bool) -> None:
    """Checks the value of any other flag; raises a UserError where it is not a flag but a key of the configuration."""
    known = set(flags.FLAGS)
    base = name.removeprefix("no") if name.removeprefix("no") in known and name not in known else name
    if base in known:
        _check_value(name, value, flags.FLAGS[base].flag_type())
        return
    path = name if name in KEYS or name.partition(".")[0] in GROUPS else name.removeprefix("no")
    if has_config and (path in KEYS or path.partition(".")[0] in GROUPS):
        shown = f"--{name}" if value is None else f"--{name}={value}"
        raise UserError(
            f"{shown} is a key of the configuration: write it as --config.{path}=VALUE, after --config=FILE"
        )


def _check_value(name: str, value: str | None, kind: str) -> None:
    """Raises a UserError if the value of a flag cannot be read as its kind, such as "int"."""
    if value is None or kind not in _PARSERS:
        return
    parser, words = _PARSERS[kind]
    try:
        parser.parse(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"--{name}={value}: it must be {words}") from error


def _with_config_file(argv: Sequence[str]) -> list[str]:
    """The command line with the path of the configuration file as the value of `--config`."""
    argv = list(argv)
    for i, flag in enumerate(argv):
        if flag in ("--config", "-config") and i + 1 < len(argv):
            argv[i + 1] = _config_file(argv[i + 1])
        elif flag.startswith(("--config=", "-config=")):
            argv[i] = f"--config={_config_file(flag.partition('=')[2])}"
    return argv


def _config_file(value: str) -> str:
    """The file that a value of `--config` means, a path or the name of an experiment, with the same argument."""
    file, colon, argument = str(paths.local_path(value)).partition(":")
    if not file.endswith(".py") and os.sep not in file:
        file = experiment_file(file)
    elif not Path(file).is_file():
        raise UserError(f"there is no configuration file {file!r}; {_nearest_config(Path(file))}")
    return f"{file}{colon}{argument}"


def _nearest_config(missing: Path) -> str:
    """A suggestion for a configuration file that does not exist: one beside it, or an experiment of a similar name."""
    beside = nearest(missing.stem, [path.stem for path in missing.parent.glob("*.py")])
    named = nearest(missing.stem, experiment_names())
    if beside:
        return f"did you mean {missing.with_stem(beside[0])}?"
    return f"did you mean --config={named[0]}?" if named else f"the experiments are {', '.join(experiment_names())}"
