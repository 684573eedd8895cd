"""Plans that are kept: compiling a step for a TPU slice takes minutes, and the same step has the same plan.

A plan is kept in the user's cache folder, under a digest of all that it depends on: the configuration, the devices, the
files of this package, the versions of JAX and of the compiler for TPUs, the variables that they read, and the settings
of JAX that change a program.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ddpm_jax.config import to_json
from ddpm_jax.jobs.plans import Plan
from ddpm_jax.jobs.resources import plan
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.devices import all_devices
from ddpm_jax.runtime.paths import cache_folder
from ddpm_jax.runtime.progress import waiting

_PACKAGE = Path(__file__).parents[1]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "libtpu")
_SETTINGS = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_optimization_level",
    "jax_threefry_partitionable",
    "jax_use_shardy_partitioner",
)


def kept_plan(config: ConfigDict, *, topology: str | None = None) -> tuple[Plan, Path | None]:
    """Returns the plan of a configuration, from the cache if it is there, and the file in which it was or None.

    While it is computed, the time that this has taken so far is printed now and then.

    Args:
      config, topology: as for `resources.plan`.

    Raises:
      UserError: as `resources.plan`.
    """
    folder, here = cache_folder(), all_devices()
    devices = topology or f"{len(here)} x {here[0].device_kind}"
    file = None if folder is None else folder / "plans" / f"{_digest(config, devices)}.json"
    if file is not None and (found := _read(file)) is not None:
        return found, file
    with waiting(f"compiling the step for {devices}"):
        made = plan(config, topology=topology)
    if file is not None:
        with contextlib.suppress(OSError):  # it is only kept for the next time
            storage.write_bytes(file, json.dumps(made._asdict()).encode())
    return made, None


def _digest(config: ConfigDict, devices: str) -> str:
    """A digest of all that a plan depends on."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    variables = {name: os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    settings = {name: str(getattr(jax.config, name)) for name in _SETTINGS}
    depends = [to_json(config), devices, versions, variables, settings]
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode())
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(file: Path) -> Plan | None:
    """Returns the plan in a file; None if there is none that can be read."""
    try:
        return Plan(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
