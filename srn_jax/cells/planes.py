"""What a cell says of arrays `[..., gates * D]`, said of one array for each gate.

In a GPU kernel arrays live in registers, their sides are powers of two, and nothing can be indexed:
the gates have to be apart. So an elementwise function is traced as it would be with 7 hidden units,
a size that nothing else has, and what was traced is done again with `Planes` in the place of every
array: one `[rows, D]` for each 7 numbers. Cutting, joining and reshaping then cost nothing, and
everything else is done plane by plane.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from srn_jax.errors import UserError

UNITS = 7  # of the traced function
# Parameters of operations that keep a shape and are not elementwise, such as a sum along an axis.
ALONG_AN_AXIS = {"axis", "axes", "dimension", "dimensions", "jaxpr", "body_jaxpr", "branches"}


class Planes(tuple[jax.Array, ...]):
    """An array for each gate, or one for a state, all of one shape."""


def by_planes(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, with `Planes` for arrays `[..., gates * D]` or `[..., D]`, both ways.

    Raises:
        UserError: if the function is not elementwise apart from cutting and joining gates.
    """
    leaves, tree = jax.tree.flatten(arguments, is_leaf=is_planes)
    traced, out = jax.make_jaxpr(
        lambda *leaves: function(*jax.tree.unflatten(tree, leaves)), return_shape=True
    )(*(jax.ShapeDtypeStruct((len(leaf) * UNITS,), leaf[0].dtype) for leaf in leaves))
    results = evaluate(traced, leaves, leaves[0][0].shape)
    return jax.tree.unflatten(jax.tree.structure(out), results)


def is_planes(leaf: Any) -> bool:
    """Whether a leaf of a pytree stands for an array."""
    return isinstance(leaf, Planes)


def evaluate(traced: Any, arguments: Sequence[Any], shape: tuple[int, ...]) -> list[Any]:
    """The results of a traced function; `shape` is that of a plane."""
    known = dict(zip(traced.jaxpr.constvars, traced.consts, strict=True))
    known |= dict(zip(traced.jaxpr.invars, arguments, strict=True))

    def value(variable: Any) -> Any:
        return variable.val if hasattr(variable, "val") else known[variable]

    for equation in traced.jaxpr.eqns:
        values = [value(variable) for variable in equation.invars]
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        called = inner is not None and equation.primitive.name != "scan"
        results = evaluate(inner, values, shape) if called else apply(equation, values, shape)
        known |= dict(zip(equation.outvars, results, strict=True))
    return [value(variable) for variable in traced.jaxpr.outvars]


def apply(equation: Any, values: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """The results of one operation on scalars and `Planes`."""
    name, params = equation.primitive.name, equation.params
    if not any(variable.aval.shape for variable in (*equation.invars, *equation.outvars)):
        return [equation.primitive.bind(*values, **params)]
    before, after = (variable.aval.shape for variable in (equation.invars[0], equation.outvars[0]))
    shapes = {variable.aval.shape for variable in equation.invars}
    unit = 1 if len(before) == 2 else UNITS  # of the first axis, `[gates, 7]` or `[gates * 7]`
    first = values[0] if before else Planes([jnp.broadcast_to(values[0], shape)])
    if name in ("squeeze", "reshape", "broadcast_in_dim"):
        results = [first * (size(after) // size(before or (UNITS,)))]
    elif name == "slice":
        start, stop = params["start_indices"][0], params["limit_indices"][0]
        results = [first[start // unit : stop // unit]]
    elif name == "split":
        ends = [sum(params["sizes"][: n + 1]) // unit for n in range(len(params["sizes"]))]
        results = [first[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    elif name in ("concatenate", "stack"):
        results = [sum(values, ())]
    elif name == "pad":
        low, high, _ = params["padding_config"][0]
        filler = (jnp.broadcast_to(values[1], shape),)
        results = [filler * (low // unit) + first + filler * (high // unit)]
    elif name == "reduce_sum" and params["axes"] == (0,) and len(before) == 2:
        results = [[sum(first[1:], first[0])]]
    elif shapes <= {(), after} and not ALONG_AN_AXIS & set(params):  # elementwise
        each = [v if is_planes(v) else (v,) * size(after) for v in values]
        results = [[equation.primitive.bind(*v, **params) for v in zip(*each, strict=False)]]
    else:
        results = []
    sizes = [size(variable.aval.shape) for variable in equation.outvars]
    if [len(planes) for planes in results] != sizes:
        raise UserError(f"--kernel does not understand {name} in this cell, leave it out")
    return [Planes(planes) for planes in results]


def size(shape: tuple[int, ...]) -> int:
    """The planes of an array; -1 if its shape is none of gates and hidden units."""
    if len(shape) == 2 and shape[1] == UNITS:
        return shape[0]
    return shape[0] // UNITS if len(shape) == 1 and shape[0] % UNITS == 0 else -1
