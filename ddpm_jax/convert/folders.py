"""The files of a diffusers folder: those of the averaged weights, of the weights before averaging, of the scheduler.

A pipeline's folder has the network in `unet/`. A training checkpoint has `unet/` and may have the averaged network in
`unet_ema/`. Weights are one file, or shards with an index, each plain or as a variant (`fp16`). Read next:
`schedulers.py`.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.convert.files import is_state_dict, read_weights, without_prefix
from ddpm_jax.convert.names import StateDict
from ddpm_jax.errors import UserError, first_line, listed, shortened

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# diffusers writes the first name, accelerate the others; a shard's number is in the place of a variant's name.
_WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model|pytorch_model)(\.(?P<variant>(?!.*-of-)[\w-]+))?"
    r"\.(?P<format>safetensors|bin)(?P<index>\.index(\.(?P<of>[\w-]+))?\.json)?"
)
_STEMS, _FORMATS = ("diffusion_pytorch_model", "model", "pytorch_model"), ("safetensors", "bin")
_MOST_JSON = 64 * 2**20  # bytes
_AVERAGED, _RAW = "unet_ema", "unet"


class Model(NamedTuple):
    """The files of a network in a folder.

    Attributes:
      config: its `config.json`.
      weights: the file of weights, or the index of its shards.
      passed_over: names of other files of weights in the folder, which are not read.
    """

    config: Path
    weights: Path
    passed_over: tuple[str, ...]


def models(folder: Path) -> tuple[Model, Model | None]:
    """The network to sample with, and the network before averaging or None.

    Raises:
      UserError: a file is missing.
    """
    if (folder / _AVERAGED).is_dir():
        return _model(folder / _AVERAGED), _model(folder / _RAW) if (folder / _RAW).is_dir() else None
    return _model(folder / _RAW if (folder / _RAW).is_dir() else folder), None


def _model(folder: Path) -> Model:
    """The network of a folder, which prefers plain weights to variants, and safetensors to pickles."""
    found = sorted((_order(path.name), path) for path in folder.iterdir() if _WEIGHTS.fullmatch(path.name))
    files = [path for _, path in found if path.is_file()]
    config = folder / "config.json"
    if not config.is_file() or not files:
        beside = f" beside {shortened(files[0].name)}" if files else f" and {' or '.join(WEIGHTS)}"
        raise UserError(f"{folder} contains no diffusers model: it needs config.json{beside}")
    return Model(config, files[0], tuple(path.name for path in files[1:]))


def _order(name: str) -> tuple[int, str, int, bool]:
    """The key by which files of weights are sorted; the first one is read."""
    found = _WEIGHTS.fullmatch(name)
    assert found, "`_model` takes only such names"
    variant = found["variant"] or found["of"] or ""
    return _STEMS.index(found["stem"]), variant, _FORMATS.index(found["format"]), bool(found["index"])


def variant(model: Model) -> str:
    """A sentence on which weights are read; it is empty for plain weights that are the only ones."""
    found = _WEIGHTS.fullmatch(model.weights.name)
    assert found, "`_model` takes only such names"
    kind = found["variant"] or found["of"]
    if not kind and not model.passed_over:
        return ""
    taken = f"the weights were read from {model.weights.parent.name}/{shortened(model.weights.name)}"
    kind = f", the variant {shortened(kind)}" if kind else ""
    return taken + kind + (f", not from {listed(model.passed_over, most=3)}" if model.passed_over else "")


def weights(model: Model) -> tuple[StateDict, list[Path]]:
    """The state dict, and the files it was read from.

    Raises:
      UserError: a file is missing or broken, or the index and the shards do not fit together.
    """
    is_index = model.weights.suffix == ".json"
    parts = _shards(model.weights) if is_index else [model.weights]
    state_dict: dict[str, np.ndarray] = {}
    for file in parts:
        part = read_weights(file)
        if not is_state_dict(part):
            raise UserError(f"{file} contains no state dict")
        twice = [name for name in part if name in state_dict]
        if twice:
            raise UserError(f"{file} contains tensors that another shard contains too: {listed(twice, most=3)}")
        state_dict |= part
    return without_prefix(state_dict), [model.weights, *parts] if is_index else parts


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all of which must be in its folder."""
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise UserError(f"{index} names no shards: it has no weight_map")
    named = dict.fromkeys(map(_shard_name, table.values()))
    if None in named:
        raise UserError(f"{index} names a shard that is not a file of weights in the same folder; nothing was read")
    names = [name for name in named if name is not None]
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"{index} names shards that do not exist: {listed(missing, most=3)}; download them too")
    return [index.parent / name for name in names]


def _shard_name(value: Any) -> str | None:
    """The name of a shard if it is a file name without a folder; else None."""
    fits = isinstance(value, str) and re.fullmatch(r"[^/\\\0]{1,200}\.(safetensors|bin)", value)
    return value if fits else None


def scheduler(folder: Path) -> Path | None:
    """The file of the scheduler's settings, or None.

    It is in the folder itself or in its `scheduler/`. A scheduler is also found beside a folder that is called `unet/`,
    `unet_ema/` or, as in a training run, `checkpoint-N/`.
    """
    place = folder.absolute()
    places = [place]
    while re.fullmatch(rf"{_RAW}|{_AVERAGED}|checkpoint-\d+", place.name):
        place = place.parent
        places.append(place)
    paths = [place / name for place in places for name in ("scheduler/scheduler_config.json", "scheduler_config.json")]
    return next((path for path in paths if path.is_file()), None)


def read_json(path: Path) -> dict[str, Any]:
    """The dict in a JSON file.

    Raises:
      UserError: the file is too large, is not JSON, or holds something other than a dict.
    """
    if path.stat().st_size > _MOST_JSON:
        raise UserError(f"{path} is too large for settings ({path.stat().st_size:,} bytes), so it was not opened")
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {shortened(first_line(error), 120)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} contains no settings")
    return content
