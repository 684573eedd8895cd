"""Damaged and hostile files of weights in every form that `convert` reads, for `damage.py`."""

import contextlib
import io
import json
import os
import pickle
import pickletools
import shutil
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import TypedDict
from unittest import mock

import jax
import numpy as np
import safetensors.numpy
from _corrupt import Rng, corrupted, corrupted_json
from _pool import Outcome, Task, outcome_of

from ddpm_jax import factory
from ddpm_jax.config import experiment
from ddpm_jax.convert.families import DIFFUSERS, OPENAI
from ddpm_jax.convert.incoming import configured, converted, understood
from ddpm_jax.convert.loader import state_dict
from ddpm_jax.convert.names import tensors
from ddpm_jax.convert.outgoing import network_config, scheduler_config
from ddpm_jax.factory.models import configured_network

GIVEN = {"image_size": 8, "num_heads": 4}  # the settings that cannot be read off a state dict
STEM = "diffusion_pytorch_model"
FORMS = ("zip", "spliced zip", "bare pickle", "safetensors", "folder, safetensors", "folder, bin", "folder, sharded")


class Whole(TypedDict):
    """The undamaged files: the tensors of two families, and the settings of a folder of diffusers."""

    openai: dict[str, np.ndarray]
    diffusers: dict[str, np.ndarray]
    network: str
    scheduler: str


def seeds() -> Whole:
    """A small network: random state dicts in OpenAI's names and in diffusers' names, and the latter's settings."""
    small = {
        "model.channels": 32,
        "model.channel_mult": (1,),
        "model.num_res_blocks": 1,
        "model.attention_resolutions": (),
        "data.image_size": 8,
        "model.padding": "symmetric",
        "model.time_embedding": "cos_sin",
        "model.norm_epsilon": 1e-5,
    }
    config = experiment("base")
    with config.unlocked():
        config.update_from_flattened_dict(small)
    model = configured_network(config)
    shapes, rng = jax.eval_shape(factory.initial_params(config, model), jax.random.key(0)), np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes)
    named = lambda family: state_dict(params, tensors(family, shapes, heads=model.arch.heads))
    return {
        "openai": named(OPENAI),
        "diffusers": named(DIFFUSERS),
        "network": json.dumps(network_config(config, model)),
        "scheduler": json.dumps(scheduler_config(config)),
    }


def task(seed: int, whole: Whole, folder: Path) -> Task:
    """A task that makes a damaged or hostile file by its number and reads it as `convert` does."""

    def opened(number: int) -> Outcome:
        rng = np.random.default_rng((seed, number))
        place, kind = folder / f"weights_{os.getpid()}", FORMS[number % len(FORMS)]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        canary = folder / f"executed_{os.getpid()}"
        path = _written(kind, whole, place, rng, str(canary))
        as_without_torch = mock.patch("importlib.util.find_spec", return_value=None)
        with as_without_torch if number // len(FORMS) % 2 else contextlib.nullcontext():
            outcome = outcome_of(kind, partial(_read, path, thorough=number % 20 == 0))
        if not canary.exists():
            return outcome
        canary.rmdir() if canary.is_dir() else canary.unlink()
        return outcome._replace(result="executed")

    return opened


def control(folder: Path) -> Task:
    """A task in which Python's own reader of pickles executes one of the attacks, which must be detected."""

    def opened(number: int) -> Outcome:
        canary = folder / f"executed_{os.getpid()}"
        pickle.loads(b"\x80\x02" + _attacks(str(canary), np.random.default_rng(number))[0][0] + b".")
        return Outcome("control", "executed" if canary.exists() else "loads")

    return opened


def _read(path: Path, *, thorough: bool) -> None:
    """Reads and understands a file; converts it, unless only its numbers can differ from those of the whole file."""
    network, _ = understood(path, {} if path.is_dir() else GIVEN)
    config = configured(network, experiment("base"), name="damaged")
    form = {name: (array.shape, array.dtype) for name, array in network.state_dict.items()}
    if thorough or not _known(network.kind, form, config.to_json()):
        converted(network, config, source=path)


_FORMS_SEEN: set[int] = set()


def _known(*form: object) -> bool:
    """Whether this process has converted weights of this very form before."""
    seen = hash(str(form)) in _FORMS_SEEN
    _FORMS_SEEN.add(hash(str(form)))
    return seen


def _written(kind: str, whole: Whole, place: Path, rng: Rng, canary: str) -> Path:
    """A damaged file or folder of a kind."""
    if kind.startswith("folder"):
        return _folder(kind, whole, place, rng, canary)
    weights = whole["openai"]
    if kind == "safetensors":
        path, data = place / "weights.safetensors", safetensors.numpy.save(weights)
    else:
        path, pickled = place / "weights.pt", torch_pickle(weights)
        if kind == "zip":
            data = torch_zip(pickled, weights)
        else:
            pickled = spliced(pickled, rng, canary)
            data = torch_zip(pickled, weights) if kind == "spliced zip" else pickled
    is_whole = "spliced" in kind or kind == "bare pickle"
    path.write_bytes(data if is_whole and rng.integers(4) else corrupted(data, rng, times=int(rng.integers(1, 4))))
    return path


def _folder(kind: str, whole: Whole, place: Path, rng: Rng, canary: str) -> Path:
    """A folder of diffusers in which one file is damaged, hostile or missing."""
    weights, (unet, scheduler) = whole["diffusers"], (place / "unet", place / "scheduler")
    unet.mkdir(), scheduler.mkdir()
    (unet / "config.json").write_text(whole["network"])
    (scheduler / "scheduler_config.json").write_text(whole["scheduler"])
    if kind.endswith("bin"):
        pickled = torch_pickle(weights)
        pickled = spliced(pickled, rng, canary) if rng.integers(2) else pickled
        (unet / f"{STEM}.bin").write_bytes(torch_zip(pickled, weights))
    elif kind.endswith("sharded"):
        names = sorted(weights)
        parts = {f"{STEM}-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
        for file, part in parts.items():
            (unet / file).write_bytes(safetensors.numpy.save({name: weights[name] for name in part}))
        weight_map = {name: file for file, part in parts.items() for name in part}
        index = {"metadata": {"total_size": sum(x.nbytes for x in weights.values())}, "weight_map": weight_map}
        (unet / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))
    else:
        (unet / f"{STEM}.safetensors").write_bytes(safetensors.numpy.save(weights))
    files = sorted(path for path in place.rglob("*") if path.is_file())
    path = files[int(rng.integers(len(files)))]
    if rng.integers(20) == 0:
        path.unlink()
    elif path.suffix == ".json" and rng.integers(3):
        path.write_text(corrupted_json(path.read_text(), rng))
    else:
        path.write_bytes(corrupted(path.read_bytes(), rng, times=int(rng.integers(1, 4))))
    return place


def torch_pickle(weights: dict[str, np.ndarray]) -> bytes:
    """The pickle that torch writes of a state dict of float32, made without torch."""
    parts = [b"\x80\x02}("]
    for key, (name, array) in enumerate(weights.items()):
        strides = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)
        numbers = b"(" + _code("storage") + b"ctorch\nFloatStorage\n" + _code(str(key)) + _code("cpu")
        parts += [_code(name), b"ctorch._utils\n_rebuild_tensor_v2\n(", numbers, _code(array.size), b"tQ"]
        parts += [_code(0), _code(array.shape), _code(strides), b"\x89ccollections\nOrderedDict\n)RtR"]
    return b"".join(parts) + b"u."


def torch_zip(pickled: bytes, weights: dict[str, np.ndarray]) -> bytes:
    """The archive that torch writes around a pickle and the numbers of its tensors."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, array in enumerate(weights.values()):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def spliced(pickled: bytes, rng: Rng, canary: str) -> bytes:
    """A pickle with up to three additional groups of instructions from `_attacks`, at random places."""
    for _ in range(int(rng.integers(1, 4))):
        try:
            places = [at for _, _, at in pickletools.genops(pickled)][1:]
        except (ValueError, IndexError, UnicodeDecodeError):
            places = []
        at = places[int(rng.integers(len(places)))] if places else int(rng.integers(len(pickled)))
        group = _attacks(canary, rng)[int(rng.integers(4))]
        pickled = pickled[:at] + group[int(rng.integers(len(group)))] + pickled[at:]
    return pickled


def _attacks(canary: str, rng: Rng) -> tuple[list[bytes], ...]:
    """Instructions that make a folder, that claim memory, that nest, and that are invalid."""
    target, number = b"(" + _code(canary) + b"t", int(2 ** rng.uniform(8, 31))
    program = _code(f"import os; os.mkdir({canary!r})")
    run = [
        b"cposix\nmkdir\n" + target + b"R",
        b"cos\nmkdir\n" + target + b"R0",
        b"cbuiltins\nexec\n(" + program + b"tR",
        b"c__builtin__\neval\n(" + _code(f"__import__('os').mkdir({canary!r})") + b"tR",
        b"(" + _code(canary) + b"iposix\nmkdir\n",
        b"(cposix\nmkdir\n" + _code(canary) + b"o",
        _code("posix") + _code("mkdir") + b"\x93" + target + b"R",
        b"cpathlib\nPath\n(" + _code(canary) + b"t\x81}" + _code("x") + b"Nsb",
        b"cnumpy\nfromfile\n" + target + b"R",
        b"ctorch\nload\n" + target + b"R",
        b"cbuiltins\ngetattr\n(cos\nmkdir\n" + _code("__call__") + b"tR" + target + b"R",
        b"ctorch._utils\n_rebuild_tensor_v2\n" + target + b"b",
    ]
    claim = [
        b"r" + struct.pack("<I", number),
        b"j" + struct.pack("<I", number),
        b"\x8d" + struct.pack("<Q", number),
        b"\x8e" + struct.pack("<Q", number << 20),
        b"\x96" + struct.pack("<Q", number << 8),
        b"\x8b" + struct.pack("<i", number & 0x7FFFFFFF),
        b"\x95" + struct.pack("<Q", number << 8),
        b"p%d\n" % number,
        b"L" + b"9" * 5000 + b"L\n",
    ]
    nest = [b"(" * 5000, b")" + b"2\x86" * 40, b"]" + b"2a" * 30, b"}" + b")" + b"2\x86" * 40 + b"Ns", b"\x85" * 3000]
    odd = [b"R", b"b", b"u", b"s", b"0", b"1", b"2", b".", b"\x94", b"h\x07", b"q\x07", b"Q", b"Pname\n", b"Iabc\n"]
    odd += [b"\x82\x01", b"\x97", b"\x98", b"Fnan\n", rng.bytes(int(rng.integers(1, 6)))]
    return run, claim, nest, odd


def _code(value: object) -> bytes:
    """The instructions of a pickle that make a value."""
    return pickle.dumps(value, protocol=2)[2:-1]
