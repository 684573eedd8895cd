"""The base configuration, and experiments by name.

The repository's folder `configs/` is installed as `ddpm_jax/experiments`.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict

from ddpm_jax.config.schema import GROUPS
from ddpm_jax.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "experiments", _PACKAGE.parent / "configs")  # in an installed wheel; in a clone
EXPERIMENTS = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])


def base_config() -> ConfigDict:
    """The locked configuration of all defaults: Ho et al. 2020's network and training for 32x32 images."""
    config = ConfigDict()
    for name, group in GROUPS.items():
        part = {last: key.default for last, key in group.keys.items()}
        config.update({name: ConfigDict(part)} if name else part)
    return config.lock()


def editable(config: ConfigDict) -> ConfigDict:
    """A locked copy of a configuration, whose values can be changed also where those of the original are frozen."""
    return ConfigDict(config.to_dict()).lock()


def experiment_names() -> list[str]:
    """The names of all experiments, sorted."""
    return sorted(path.stem for path in EXPERIMENTS.glob("[!_]*.py"))


def experiment_file(name: str) -> Path:
    """The file of the experiment `name`.

    Raises:
      UserError: there is no such experiment; the message suggests one.
    """
    known = experiment_names()
    if name not in known:
        hint = did_you_mean(name, known, otherwise=f"there are {', '.join(known)}")
        raise UserError(f"there is no experiment {name!r}; {hint}")
    return EXPERIMENTS / f"{name}.py"


def experiment(name: str) -> ConfigDict:
    """The configuration that the experiment `name` defines, as `get_config()` of `configs/NAME.py` returns it.

    Args:
      name: such as "digits".

    Returns:
      A locked `ConfigDict`; its keys are set like attributes, `config.train.num_steps = 500`.

    Raises:
      UserError: there is no such experiment.
    """
    spec = importlib.util.spec_from_file_location(f"ddpm_jax.experiments.{name}", experiment_file(name))
    assert spec is not None, "the name ends in .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def flatten(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """A nested dict or ConfigDict as `{"model.channels": 128, ...}`."""
    nested = config.to_dict() if isinstance(config, ConfigDict) else config
    return traverse_util.flatten_dict(nested, sep=".")
