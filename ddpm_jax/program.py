"""What the command-line programs share: flags parsed with one-line errors, the compilation cache, exit codes."""

import difflib
import os
import re
import sys
from pathlib import Path

import jax
from absl import app, flags, logging

from ddpm_jax.errors import UserError


def run(main):
    """Runs `main()` under absl; a mistake prints `error: ...` on stderr and exits with status 1, no traceback."""

    def guarded(argv):
        del argv
        if not flags.FLAGS["verbosity"].present:
            _quieten_libraries()
        _use_compilation_cache()
        try:
            main()
        except UserError as error:
            _fail(error)
        except KeyboardInterrupt:
            sys.exit("interrupted")

    app.run(guarded, flags_parser=_parse)


def _fail(message):
    """Prints the error line and exits."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(1)


def _quieten_libraries():
    """Leaves out what libraries report of their insides: tracebacks of Orbax, where one line of ours says it all."""
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().addFilter(lambda record: record.name != "asyncio" and "orbax" not in record.pathname)


def _use_compilation_cache():
    """Keeps compiled programs between starts, in JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ddpm_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _parse(argv):
    """Parses flags; every way to mistype one is a line of its own."""
    if "--help" in argv:
        app.usage(shorthelp=True, writeto_stdout=True)
        sys.exit(0)
    missing = _missing_config_file(argv)
    if missing:
        _fail(missing)
    try:
        rest = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        _fail(_unknown_key(argv, str(error)))
    except flags.Error as error:
        _fail(" ".join(str(error).split()))
    if len(rest) > 1:
        stray = rest[1]
        _fail(f"{stray!r} is not a flag" + (f"; write --{stray}" if "=" in stray else "; see --help"))
    return rest


def _unknown_key(argv, text):
    """One line for a configuration key that does not exist."""
    match = re.search(r"lookup: .*?(\w+)$", text) or re.search(r"'+\\*'?(\w+)", text)
    wrong = match.group(1) if match else ""
    argument = next(
        (a for a in argv if a.startswith("--") and wrong in a.split("=")[0].split(".")), f"--config...{wrong}"
    )
    near = re.search(r'Did you mean "(\w+)"', text)
    hint = f"did you mean {near.group(1)!r}?" if near else "configs/base.py lists every key"
    return f"{argument.split('=')[0]}: there is no configuration key {wrong!r}; {hint}"


def _missing_config_file(argv):
    """One line for a configuration file that is not there, or None where that is not the trouble."""
    for i, argument in enumerate(argv):
        if argument.startswith("--config=") or argument == "--config":
            value = argument.partition("=")[2] if "=" in argument else "".join(argv[i + 1 : i + 2])
            path = Path(value.split(":")[0])
            if not path.is_file():
                near = difflib.get_close_matches(path.name, [p.name for p in Path("configs").glob("*.py")], n=1)
                hint = f"; did you mean configs/{near[0]}?" if near else "; the experiments are in configs/"
                return f"there is no configuration file {value!r}{hint}"
    return None
