"""Accelerators' loops and the GPU kernels, interpreted, give what the plain recurrence gives."""

from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_recurrence import Gated, Pair, problem

from srn_jax import GRU, LSTM, SRN, Cell, ResidualSRN
from srn_jax.cells import kernels
from srn_jax.cells.kernels import Kernels, check_size
from srn_jax.cells.loops import InPlace, Stacked
from srn_jax.cells.planes import Planes, by_planes
from srn_jax.cells.recurrence import Plan, recurrence, reference_recurrence
from srn_jax.errors import UserError

CELLS = [SRN, ResidualSRN, LSTM, GRU, Gated, Pair]
by_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)


@pytest.fixture(autouse=True)
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@cache
def program(cell, plan, reference):
    """The gradients of the states' weighted sum, and the states; or by the plain recurrence."""

    def weighted(arrays, mask, outside):
        if reference:
            states = reference_recurrence(cell, *arrays, mask)
            states = jax.tree.map(lambda part: part[-1], states) if plan.last else states
        else:
            states = recurrence(cell, *arrays, mask, plan)
        parts = jax.tree.map(lambda s, o: jnp.sum(s * o), states, outside)
        return sum(jax.tree.leaves(parts)), states

    return jax.jit(jax.grad(weighted, has_aux=True))


def run(cell, arrays, mask, outside, dtype, plan, reference=False):
    """Gradients and states in a type; `outside` is the gradient of the states."""
    outside = jax.tree.map(lambda part: part[-1], outside) if plan.last else outside
    arrays, outside = jax.tree.map(lambda a: jnp.asarray(a, dtype), (arrays, outside))
    return program(cell, plan, reference)(arrays, mask, outside)


def in_float64(cell, arrays, mask, outside, last):
    """What is right."""
    return run(cell, arrays, mask, outside, jnp.float64, Plan(last), reference=True)


def assert_close(ones, others, tolerance):
    for one, other in zip(jax.tree.leaves(ones), jax.tree.leaves(others), strict=True):
        one, other = np.asarray(one, float), np.asarray(other, float)
        assert np.max(np.abs(one - other)) <= tolerance * (np.max(np.abs(other)) + 1e-30)


@by_cell
@pytest.mark.parametrize(
    ("form", "last"),
    [
        (Stacked(unroll=3), False),  # which leaves a turn with a single position
        (Stacked(unroll=64), True),
        (Stacked(moves_by_product=True), True),
    ],
    ids=["unrolled", "all of it", "a TPU's"],
)
def test_the_loops_of_accelerators_are_the_plain_recurrence(cell, form, last):
    arguments = problem(cell, time=7)
    ours = run(cell, *arguments, jnp.float64, Plan(last, form))
    assert_close(ours, in_float64(cell, *arguments, last), 1e-12)


@pytest.mark.parametrize(
    ("cell", "masked", "last"),
    [
        *((cell, True, False) for cell in CELLS),
        *((cell, False, True) for cell in (SRN, GRU)),
        (LSTM, True, True),
    ],
)
def test_the_kernels_are_the_plain_recurrence(cell, masked, last):
    """Eleven rows do not fill two programs, and the hidden size is one that they know."""
    arrays, mask, outside = problem(cell, time=5, batch=11, hidden=16)
    arguments = arrays, mask if masked else None, outside
    ours = run(cell, *arguments, jnp.float32, Plan(last, Kernels()))
    assert_close(ours, in_float64(cell, *arguments, last), 1e-5)


@pytest.mark.parametrize("cell", [SRN, LSTM, Gated], ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("form", [InPlace(), Stacked(unroll=3), Kernels()], ids=repr)
def test_the_last_state_alone_is_the_last_of_all(cell, form):
    """With and without a mask: of rows that begin anywhere, that begin together, that never do."""
    arrays, mask, _ = problem(cell, time=7, batch=3, hidden=16)
    arrays = jax.tree.map(jnp.float32, arrays)
    late, together, never = (np.arange(7)[:, None] >= np.array(at) for at in ([2, 4, 5], 3, 7))
    last = jax.jit(partial(recurrence, cell, plan=Plan(last=True, form=form)))
    for keep in (None, mask, late, together, never):
        ours = last(*arrays, mask=keep)
        states = reference_recurrence(cell, *arrays, keep)
        assert_close(ours, jax.tree.map(lambda part: part[-1], states), 1e-5)


@pytest.mark.parametrize("cell", [SRN, GRU, Gated], ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("form", [InPlace(), Stacked()], ids=repr)
@pytest.mark.parametrize("starts", [[3], [2, 4, 5]], ids=["together", "apart"])
@pytest.mark.parametrize("last", [False, True])
def test_blank_positions_may_be_left_out(cell, form, starts, last):
    """Where sequences have not begun, and what goes in is zero; nobody looks at states there."""
    (features, *weights, initial), _, outside = problem(cell, time=7, batch=3, hidden=4)
    mask = np.arange(7)[:, None] >= np.array(starts)
    begun = np.broadcast_to(mask, (7, 3))[..., None]
    arrays = features * begun, *weights, jax.tree.map(np.zeros_like, initial)
    outside = jax.tree.map(lambda part: part * begun, outside)
    found = run(cell, arrays, mask, outside, jnp.float64, Plan(last, form, blank=True))
    expected = in_float64(cell, arrays, mask, outside, last)
    (ours, states), (theirs, right) = found, expected
    if not last:
        states, right = (jax.tree.map(lambda p: p * begun, each) for each in (states, right))
    assert_close([states, ours[1:-1]], [right, theirs[1:-1]], 1e-12)  # of W, U and c


@pytest.mark.slow
@pytest.mark.parametrize("cell", [SRN, ResidualSRN, LSTM, GRU])
@pytest.mark.parametrize("length", range(5, 40, 5))
def test_the_kernels_keep_float32_at_every_length_of_the_textbook(cell, length):
    """Sizes are the textbook's, and weights its initial ones: uniform on +-sqrt(6 / 64)."""
    (inputs, *weights, initial), _, outside = problem(
        cell, time=length, batch=8, features=32, hidden=32
    )
    # `problem` draws weights of deviation 1/2.
    weights = jax.tree.map(lambda weight: weight * 2 * np.sqrt(6 / 64 / 3), weights)
    rest = *weights, jax.tree.map(np.zeros_like, initial)
    ours = run(cell, (inputs, *rest), None, outside, jnp.float32, Plan(True, Kernels()))

    missing = 35 - length  # for one compiled reference at all lengths
    padded = np.pad(inputs, [(missing, 0), (0, 0), (0, 0)])
    mask = np.arange(35)[:, None] >= missing
    (features, *others), states = in_float64(cell, (padded, *rest), mask, outside, last=True)
    # Nothing damps the gradient of a residual SRN: at 35 it is 874, and its error 1.02e-5 of that.
    tolerance = 2e-5 if (cell, length) == (ResidualSRN, 35) else 1e-5
    assert_close(ours, ((features[missing:], *others), states), tolerance)


class Module(nnx.Module):
    """Of the user's, not of the family."""


@pytest.mark.parametrize(
    ("device", "cell", "size", "expected"),
    [
        (("gpu", "NVIDIA H200", "9.0"), LSTM, 32, True),
        (("gpu", "NVIDIA A100-SXM4-40GB", "8.0"), Pair, 64, True),
        (("gpu", "Tesla T4", "7.5"), SRN, 32, False),
        (("gpu", "AMD Instinct MI300X", "gfx942"), SRN, 32, False),
        (("cpu", "cpu", ""), SRN, 32, False),
        (("gpu", "NVIDIA H200", "9.0"), SRN, 48, False),
        (("gpu", "NVIDIA H200", "9.0"), Module, 32, False),
    ],
)
def test_kernels_are_chosen_where_they_suit(device, cell, size, expected, monkeypatch):
    monkeypatch.setattr(kernels, "understood", lambda _: True)
    platform, kind, capability = device
    given = SimpleNamespace(platform=platform, device_kind=kind, compute_capability=capability)
    assert kernels.suit(given, cell, size) == expected


class Sorting(Cell):
    """Its units depend on each other, which no cell of the family may."""

    def update(self, x, h, state):
        return jnp.sort(x + h, axis=-1)[..., 0, :]


class Strange(Cell):
    """Elementwise, but of a function that Triton does not know."""

    def update(self, x, h, state):
        return jax.scipy.special.digamma(2 + jnp.tanh(x + h))[..., 0, :]


@pytest.mark.skipif(
    jax.__version_info__ >= (0, 11) and jax.default_backend() != "gpu",
    reason="this JAX makes no kernel where there is no GPU",
)
@pytest.mark.parametrize(
    ("cell", "expected"), [*((cell, True) for cell in CELLS), (Sorting, False), (Strange, False)]
)
def test_a_cell_that_the_kernels_do_not_understand_is_left_to_the_loops(cell, expected):
    jax.config.update("jax_enable_x64", False)
    assert kernels.understood(cell) == expected


def test_a_kernel_does_not_take_any_cell_or_size():
    with pytest.raises(UserError, match="hidden size of 16, 32, 64, got 48"):
        check_size(48)

    def sorts(x):
        return jnp.sort(x)[:7]

    with pytest.raises(UserError, match="--kernel does not understand"):
        by_planes(sorts, Planes([jnp.zeros((8, 16)), jnp.zeros((8, 16))]))
