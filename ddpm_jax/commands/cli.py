"""The common part of the command-line programs: flags with one-line errors, the compilation cache, exit codes."""

import faulthandler
import io
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import jax
from absl import app, flags, logging

from ddpm_jax.commands import arguments, endings
from ddpm_jax.config import experiment_file, unknown_key
from ddpm_jax.config.page import as_text
from ddpm_jax.errors import TransientError, UserError, first_line, is_transient, one_line, program
from ddpm_jax.runtime import paths
from ddpm_jax.runtime.devices import all_devices, lost_connection

DISTRIBUTED = flags.DEFINE_boolean(
    "distributed",
    False,
    "Run this process as one of several that work together. On TPU pods, Slurm and GKE the processes find each other.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "The HOST:PORT of the first process, if the processes do not find each other by themselves."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "The number of processes; needed with --coordinator.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this process, from 0; needed with --coordinator.")
_HEARTBEAT_SECONDS = 60  # a process that is silent for so long is considered dead, and the others end


class PathParser(flags.ArgumentParser):
    """The value of a flag that takes a path: `~` is expanded, and an unusable path is an error before any work."""

    def parse(self, argument: str) -> str:
        """The path, expanded; a ValueError says what is wrong with it."""
        try:
            return paths.expanded(argument)
        except UserError as error:
            raise ValueError(str(error)) from error


class PathsParser(flags.ListParser):
    """The value of a flag that takes paths with commas between them, each as for `PathParser`."""

    def parse(self, argument: str | list[str]) -> list[str]:
        """The paths, expanded."""
        return [PathParser().parse(path) for path in super().parse(argument)]


def run(
    main: Callable[..., object],
    *,
    module: str,
    argument: str | None = None,
    repeated: bool = False,
    uses_devices: bool = True,
) -> None:
    """Runs `main` under absl; an error prints `error: ...` on stderr, without a traceback if it is a `UserError`.

    `endings.py` has the exit codes.

    Args:
      main: function without parameters, or of the arguments of the command line that are not flags.
      module: name of the module that defines the flags; `--help` prints its docstring and the flags.
      argument: a description of that argument, where there is one.
      repeated: whether there may be several of these arguments.
      uses_devices: whether the program computes; one that does not leaves the devices to others, and works alone.
    """

    def guarded(argv: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        faulthandler.register(signal.SIGUSR1, file=2)  # shows where each thread is, on stderr
        try:
            with endings.terminated_in_order():
                if uses_devices:
                    _use_compilation_cache()
                    _join_the_others()
                    all_devices()  # before any work
                main(*argv[1:])
                sys.stdout.flush()
        except BrokenPipeError as error:
            _leave_unheard(endings.exit_code(error))
        except Exception as error:
            _fail(error)
        except KeyboardInterrupt as error:
            print("interrupted", file=sys.stderr)
            endings.leave(endings.exit_code(error))

    parse = partial(_parse, module=sys.modules[module], argument=argument, most=None if repeated else 1)
    app.run(guarded, flags_parser=parse)


def _fail(error: Exception) -> NoReturn:
    """Prints the error, in one line if it is for the user, and exits with the code of its kind."""
    message: object = error
    if lost_connection(error):
        reason = first_line(error)
        message = (
            f"the connection to the other processes was lost ({reason}); start all processes again to resume from "
            "the last checkpoint"
        )
    elif not isinstance(error, UserError):
        if not (jax.distributed.is_initialized() or is_transient(error)):
            raise error
        message = "".join(traceback.format_exception(error))
    print(f"error: {message}", file=sys.stderr, flush=True)
    endings.leave(endings.exit_code(error))


def _leave_unheard(code: int) -> NoReturn:
    """Exits where the reader of the output has closed it, as `head` does; the rest of the output is dropped."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    endings.leave(code)


def _join_the_others() -> None:
    """Makes this process one of many, where a flag says so or the environment shows it."""
    if COORDINATOR.value:
        coordinator, count, index = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
        if count is None or index is None:
            raise UserError("--coordinator=HOST:PORT needs --num_processes and --process_id too")
    elif DISTRIBUTED.value or _is_one_of_many():
        coordinator = count = index = None  # JAX finds them in the environment
    else:
        return
    try:
        jax.distributed.initialize(coordinator, count, index, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
    except ValueError as error:
        raise UserError(f"cannot join the other processes: {first_line(error)}") from error
    except RuntimeError as error:
        raise TransientError(f"cannot join the other processes: {first_line(error)}") from error
    endings.leave_if_aborted()
    if jax.process_index():
        sys.stdout = io.StringIO()  # only the first process prints


def _is_one_of_many() -> bool:
    """Whether Slurm or the launcher of a TPU slice says that there are other processes."""
    tasks, hosts = os.environ.get("SLURM_STEP_NUM_TASKS", "1"), os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return (tasks.isdigit() and int(tasks) > 1) or "," in hosts


def _use_compilation_cache() -> None:
    """Keeps compiled programs between starts, in JAX_COMPILATION_CACHE_DIR or the user's cache folder, if any.

    Small ones too, which JAX leaves out unless JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS says otherwise: a start has
    dozens of them, and the next one compiles nothing.
    """
    chosen = jax.config.jax_compilation_cache_dir  # pyrefly: ignore[missing-attribute]  # jax adds it while it is imported
    if chosen is None and (cache := paths.cache_folder()):
        jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _parse(argv: list[str], module: ModuleType, argument: str | None, most: int | None = 1) -> list[str]:
    """Parses the flags, and the arguments if there are any; every kind of mistake exits with one line.

    Args:
      argv: the command line.
      module: the module that defines the flags.
      argument: a description of the argument that is not a flag, where there is one.
      most: how many of these there may be; None for any number.

    Returns:
      The program's name, and the arguments if there are any.
    """
    paths.show_unprintable_by_code()
    if "--help" in argv:
        _help(module, several=not argument)
    if "config" in flags.FLAGS and {"--help_config", "-help_config"} & set(argv):
        _print_and_exit(as_text())
    try:
        rest = flags.FLAGS(arguments.checked(argv))
    except UserError as error:
        _fail(error)
    except flags.Error as error:
        _fail(UserError(arguments.explained(error)))
    except Exception as error:  # a user's configuration file may raise anything
        _fail(UserError(_unreadable(error)))
    if argument and len(rest) == 1:
        _fail(UserError(f"{argument} is missing; see --help"))
    strays = rest[1:] if not argument else rest[1 + most :] if most else []
    if strays:
        stray = strays[0]
        hint = f"write {shlex.quote('--' + stray)}" if "=" in stray else "see --help"
        _fail(UserError(f"{stray!r} is not a flag; {hint}"))
    return rest


def _help(module: ModuleType, *, several: bool) -> NoReturn:
    """Prints what a program does and its flags, if `several` with the flags of many processes, and exits."""
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        if "(default: " in flag.help:
            flag.default_as_str = ""  # absl would print a second default
    of_program = flags.FLAGS.module_help(module).lstrip().partition("\n")[2]
    of_many = flags.FLAGS.module_help(sys.modules[__name__]).replace(__name__, "flags for several processes")
    about = re.sub(r"python (train|sample|evaluate)\.py", lambda found: program(found[1]), module.__doc__ or "")
    _print_and_exit("\n".join([f"{about}\nflags:\n{of_program}", *[of_many] * several]))


def _print_and_exit(text: str) -> NoReturn:
    """Prints what the user asked for instead of running the program."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _leave_unheard(endings.MEND)
    sys.exit(0)


def _unreadable(error: Exception) -> str:
    """One line for an exception of a configuration file: often it sets a key that does not exist."""
    text = " ".join(str(error).split())
    if isinstance(error, AttributeError | KeyError):
        if "get_config" in text:
            return f"the configuration file defines no function get_config(); see {_shown('own_images')}"
        quoted = text.split('"')[1:2]
        if quoted and "locked" in text:
            return f"the configuration file: {unknown_key(quoted[0])}"
    return one_line(f"cannot read the configuration file: {type(error).__name__}: {text}")


def _shown(experiment: str) -> str:
    """The path of an experiment's file as a person would write it here."""
    path = experiment_file(experiment)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
