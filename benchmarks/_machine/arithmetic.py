"""Floating-point operations of a function, counted in its jaxpr: only products and convolutions."""

import math
from collections.abc import Callable

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from ddpm_jax.training.state import Tree


def operations(function: Callable[..., Tree], *args: Tree) -> int:
    """Operations, two for each multiply-add, of the convolutions and matrix products of `function(*args)`."""
    return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _of_jaxpr(jaxpr: Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _shape(variable: Var | Literal) -> tuple[int, ...]:
    """The shape of an input or an output of an equation."""
    assert isinstance(variable.aval, jax.core.ShapedArray)
    return variable.aval.shape


def _of_equation(equation: JaxprEqn) -> int:
    name = equation.primitive.name
    out = math.prod(_shape(equation.outvars[0])) if equation.outvars else 0
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2 * out * math.prod(_shape(equation.invars[0])[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, spec = _shape(equation.invars[1]), equation.params["dimension_numbers"].rhs_spec
        return 2 * out * math.prod(kernel) // kernel[spec[0]]
    inner = 0
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            inner += _of_jaxpr(jaxpr) if hasattr(jaxpr, "eqns") else 0
    return inner * equation.params.get("length", 1)
