"""Objects that a program gives in place of what a configuration names: checks of their form, and their descriptions.

The checks are abstract, so they take no time and need no device. An error inside a function of the program is the
program's and passes unchanged.
"""

import dataclasses
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from functools import partial
from types import MethodType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.config import CUSTOM, denoises
from ddpm_jax.data.source import Source
from ddpm_jax.diffusion.prediction import Prediction
from ddpm_jax.diffusion.samplers import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.schedules import NoiseLevel, linear
from ddpm_jax.errors import UserError, first_line, shortened
from ddpm_jax.training.sinks import Sink

_LONGEST = 2000  # characters of a description
# The functions that take an object, by the name of the argument.
_TAKEN_BY = {"source": "train or evaluate", "network": "train or Run", "loss": "train"}


def check_given(given: object, name: str, *, key: str, argument: str) -> None:
    """Checks that an object is given exactly where the configuration names it `CUSTOM`.

    Args:
      given: the object, or None.
      name: the value in the configuration.
      key: its key.
      argument: the argument of `train` and of `Run` that takes such an object.

    Raises:
      UserError: the object is missing, or the configuration names another one.
    """
    if name == CUSTOM and given is None:
        raise UserError(
            f"config.{key} is {CUSTOM!r}: this run needs an object from your program, given as {argument}= to "
            f"{_TAKEN_BY[argument]} in Python"
        )
    if name != CUSTOM and given is not None:
        raise UserError(f"{argument}= is given, and config.{key} is {name!r}, which names another one: leave it out")


def described(given: object) -> str:
    """An object as one line that is the same in every process.

    A network and an object that is called have their fields, a partial function has its arguments, and a source has its
    length. The line is kept with a run, so that another object is noticed when the run is resumed or opened. None gives
    "".
    """
    return "" if given is None else shortened(_in_words(given), _LONGEST)


def _in_words(given: object) -> str:
    """The description of an object, of any length."""
    kind = getattr(given, "__qualname__", type(given).__qualname__)
    if isinstance(given, nn.Module):
        return _constant(re.sub(r"#[^\n]*", "", repr(given)))  # linen writes comments between the fields
    if isinstance(given, Source):
        return f"{kind} of {len(given):,} images"
    if isinstance(given, partial):
        return f"partial({', '.join([_in_words(given.func), *map(_value, given.args), *_named(given.keywords)])})"
    if isinstance(given, MethodType):
        return f"{_in_words(given.__self__)}.{given.__name__}"
    if callable(given) and not hasattr(given, "__qualname__"):
        names = [field.name for field in dataclasses.fields(given)] if dataclasses.is_dataclass(given) else None
        fields = getattr(given, "__dict__", {}) if names is None else {name: getattr(given, name) for name in names}
        return f"{kind}({', '.join(_named(fields))})"
    return kind


def _named(values: Mapping[str, object]) -> list[str]:
    """Named values as they are written in a call."""
    return [f"{name}={_value(value)}" for name, value in values.items()]


def _value(value: object) -> str:
    """An argument or a field of an object as text."""
    return _constant(repr(value))


def _constant(text: str) -> str:
    """A text in one line, without the addresses of objects, which are others in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(text.split()))


def check_callable(given: object, argument: str, *arguments: str, keywords: Sequence[str] = ()) -> None:
    """Checks that an object is a function of such arguments.

    Args:
      given: the object.
      argument: the name under which it is given, for the message.
      arguments: the names of its arguments.
      keywords: the names of the arguments that are given by their names.

    Raises:
      UserError: it cannot be called with them.
    """
    form = f"{argument} must be a function ({', '.join([*arguments, *['*'] * bool(keywords), *keywords])})"
    if not callable(given):
        raise UserError(f"{form}, and not {shortened(repr(given))}")
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):  # of a compiled function, which has none
        return
    try:
        signature.bind(*arguments, **dict.fromkeys(keywords))
    except TypeError as error:
        raise UserError(f"{form}, and takes {signature}: {first_line(error)}") from error


def check_input(given: object) -> None:
    """Raises a `UserError` if an object is neither a `Source`, nor an iterable of batches, nor a function to one."""
    if isinstance(given, type):
        raise UserError(f"source= is the class {given.__name__}: give an object of it, as in {given.__name__}(...)")
    if isinstance(given, str | os.PathLike):
        raise UserError(
            f"source={shortened(repr(given))} is a path: leave source= out, and set config.data.source to 'folder' and "
            "config.data.path to the path"
        )
    if hasattr(given, "shape") or (isinstance(given, tuple) and any(hasattr(part, "shape") for part in given)):
        raise UserError("source= is an array or a tuple of arrays: give ArrayImages(images, labels)")
    if isinstance(given, Source):
        return
    if isinstance(given, Iterable):
        if callable(given):  # it is called, so that it may begin at any step
            kind = type(given).__name__
            check_callable(given, f"source= of type {kind} can be called, so it is not iterated: it", "step")
        return
    if isinstance(given, Sized) or hasattr(given, "__getitem__"):
        raise UserError(
            f"source= of type {type(given).__name__} has no num_classes or no class_names, which a Source needs beside "
            "__len__ and __getitem__; batches need __iter__"
        )
    if not callable(given):
        raise UserError(
            f"source= must be a Source such as ArrayImages, an iterable of batches or a function (step) to one, and "
            f"not {shortened(repr(given))}"
        )
    check_callable(given, "source=", "step")


def checked_network(config: ConfigDict, given: nn.Module) -> nn.Module:
    """The given network, after trial calls with abstract images, in training and in sampling.

    Raises:
      UserError: it cannot be called as `network` says, its variables are not parameters alone, or its result does not
        have the expected shape and type.
    """
    size, channels, labelled = config.data.image_size, config.data.channels, denoises(config)
    if not labelled and not config.labels.num_classes:
        raise UserError("a classifier needs classes: set their number with config.labels.num_classes")
    if not isinstance(given, nn.Module):
        made = " made from it, as in Mlp()" if isinstance(given, type) else ""
        raise UserError(f"network= must be a linen module{made}, and not {shortened(repr(given))}")
    x_t = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    index, label = jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    inputs = (x_t, index, label) if labelled else (x_t, index)

    def call(key: jax.Array, *inputs: jax.Array) -> tuple[Any, ...]:
        variables = given.init(key, *inputs)
        trained = given.apply(variables, *inputs, train=True, rngs={"dropout": key})
        return variables, trained, given.apply(variables, *inputs)

    try:
        variables, *outs = jax.eval_shape(call, jax.eval_shape(jax.random.key, 0), *inputs)
    except Exception as error:  # code of the user
        arguments = "x_t, index, label" if labelled else "x_t, index"
        raise UserError(
            f"the network cannot be called as network({arguments}), and with train=True and a dropout key: "
            f"{first_line(error)}"
        ) from error
    if set(variables) != {"params"}:
        held = f"the variables {', '.join(variables)}" if variables else "no parameters"
        raise UserError(f"the network has {held}: only params can be trained")
    heads = 2 if config.diffusion.learned_variance else 1
    expected = (2, size, size, heads * channels) if labelled else (2, config.labels.num_classes)
    for out in outs:
        if getattr(out, "shape", None) != expected or not jnp.issubdtype(out.dtype, jnp.floating):
            got = f"{out.dtype} {list(out.shape)}" if hasattr(out, "shape") else type(out).__name__
            raise UserError(f"the network returns {got} for two images, not floating-point numbers {list(expected)}")
    return given


def check_sampler(given: object, shape: tuple[int, ...]) -> None:
    """Checks a sampler of a program by an abstract step for two images.

    Args:
      given: the sampler.
      shape: the shape of an image, `(H, W, C)`.

    Raises:
      UserError: it is not a `Sampler`, an array of its state is not `[B, ...]`, or its step does not return a
        `(SamplerState, StepInfo)` of the same shapes.
    """
    if not isinstance(given, Sampler):
        raise UserError(f"sampler= must be a Sampler, such as samplers.heun(), and not {shortened(repr(given))}")
    check_callable(given.init, "a sampler's init", "x_T")
    check_callable(given.step, "a sampler's step", "denoise", "keys", "state", "transition")
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    state = jax.eval_shape(given.init, x)
    _check_state(state, "init", x)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    transition = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((), jnp.float32), linear(10).transitions())
    out = jax.eval_shape(partial(given.step, _nothing), keys, state, transition)
    if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], StepInfo)):
        raise UserError("the sampler's step must return (SamplerState, StepInfo), the info with its estimate of x_0")
    if getattr(out[1].x_0, "shape", None) != x.shape:
        raise UserError(
            f"StepInfo.x_0 of the sampler's step must be an array {list(x.shape)}, such as denoise(...).x_0"
        )
    _check_state(out[0], "step", x)
    form = lambda state: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), state)
    if form(out[0]) != form(state):
        raise UserError(f"the sampler's step returns the state {form(out[0])} from {form(state)}: they must be equal")


def _check_state(state: Any, function: str, x: jax.ShapeDtypeStruct) -> None:
    """Raises a `UserError` if the result of a sampler's `init` or `step` is not a state for two images."""
    if not isinstance(state, SamplerState) or (state.x.shape, state.x.dtype) != (x.shape, x.dtype):
        got = f"x of {state.x.dtype} {list(state.x.shape)}" if isinstance(state, SamplerState) else type(state).__name__
        raise UserError(
            f"the sampler's {function} must return a SamplerState with x float32 {list(x.shape)}, not {got}"
        )
    if any(leaf.shape[:1] != (2,) for leaf in jax.tree.leaves(state)):
        raise UserError("every array in a sampler's memory must be [B, ...], with the axis of the images first")


def _nothing(x_t: jax.Array, level: NoiseLevel) -> Prediction:
    """A `Denoiser` for abstract calls, with everything that a prediction may have."""
    return Prediction(jnp.zeros_like(x_t), jnp.zeros_like(x_t), jnp.zeros_like(x_t))


def checked_hooks(hooks: Iterable[Callable[..., object]]) -> list[Callable[..., object]]:
    """The hooks as a list; raises a `UserError` if they are not functions `(step, state, metrics)`."""
    if callable(hooks) or not isinstance(hooks, Iterable):
        raise UserError("hooks= must be a list of functions (step, state, metrics): write hooks=[hook]")
    hooks = list(hooks)  # a generator can be iterated only once
    for hook in hooks:
        check_callable(hook, "a hook", "step", "state", "metrics")
    return hooks


def checked_sinks(sinks: Iterable[Sink]) -> list[Sink]:
    """The sinks as a list; raises a `UserError` if they are not objects with the methods of a `Sink`."""
    if isinstance(sinks, Sink) or not isinstance(sinks, Iterable):
        raise UserError("sinks= must be a list of Sink objects: write sinks=[sink]")
    sinks = list(sinks)
    for sink in sinks:
        if isinstance(sink, type):
            raise UserError(f"sinks= has the class {sink.__name__}: give an object of it, as in {sink.__name__}(...)")
        if not isinstance(sink, Sink):
            raise UserError(
                f"sinks= has an object of {type(sink).__name__}, which lacks a method of a Sink: derive its class from "
                "ddpm_jax.Sink, whose methods do nothing"
            )
    return sinks
