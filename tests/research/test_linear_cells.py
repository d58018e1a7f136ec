"""minGRU, minLSTM and LRU are their published equations, written again in PyTorch and NumPy."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from srn_jax.cells import linear_scan
from srn_jax.cells.linear_scan import LRU, MinGRU, MinLSTM

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.needs_torch

M, D, BATCH = 5, 4, 3
KINDS = [MinGRU, MinLSTM, LRU]
by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
FORMS = {"one_by_one": linear_scan.one_by_one, "in_parallel": linear_scan.in_parallel}


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """Both forms of the scan, on a platform that takes the first."""
    monkeypatch.setattr(linear_scan, "one_by_one", FORMS[request.param])
    return request.param


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """The type, with how far results may be off, relative to the largest, at length 1,000."""
    jax.config.update("jax_enable_x64", request.param == "float64")
    yield request.param, 1e-12 if request.param == "float64" else 1e-6
    jax.config.update("jax_enable_x64", False)


def g(a):
    return torch.where(a >= 0, a + 0.5, torch.sigmoid(a))


def gru_by_equations(x, p):
    z, a = (x @ p["W"] + p["b"]).split(D, -1)
    z, h, states = torch.sigmoid(z), torch.zeros(D, dtype=x.dtype), []
    for t in range(x.shape[1]):
        h = (1 - z[:, t]) * h + z[:, t] * g(a[:, t])
        states.append(h)
    return torch.stack(states, 1)


def lstm_by_equations(x, p):
    i, f, a = (x @ p["W"] + p["b"]).split(D, -1)
    i, f, h, states = torch.sigmoid(i), torch.sigmoid(f), torch.zeros(D, dtype=x.dtype), []
    for t in range(x.shape[1]):
        keep = f[:, t] / (f[:, t] + i[:, t])
        h = keep * h + (1 - keep) * g(a[:, t])
        states.append(h)
    return torch.stack(states, 1)


def lru_by_equations(x, p):
    lam = torch.exp(torch.complex(-torch.exp(p["nu"]), torch.exp(p["th"])))
    B, C = torch.complex(p["B_re"], p["B_im"]), torch.complex(p["C_re"], p["C_im"])
    s, outputs = torch.zeros(x.shape[0], D, dtype=B.dtype), []
    for t in range(x.shape[1]):
        s = lam * s + torch.exp(p["ga"]) * (x[:, t].to(B.dtype) @ B)
        outputs.append((s @ C).real + (p["d"] * x[:, t] if "d" in p else 0))
    return torch.stack(outputs, 1)


EQUATIONS = {MinGRU: gru_by_equations, MinLSTM: lstm_by_equations, LRU: lru_by_equations}


def cell_of(kind, size=M):
    """A cell as a function of its parameters, and these."""
    definition, state = nnx.split(kind(size, D, rngs=nnx.Rngs(0)))

    def run(parameters, inputs, mask=None):
        own = jax.tree.map(lambda leaf: leaf, state)  # variables of the present trace
        nnx.replace_by_pure_dict(own, parameters)
        return nnx.merge(definition, own)(inputs, mask)

    return run, jax.tree.map(lambda p: p.astype("float32"), nnx.to_pure_dict(state))


def inputs_of(time, size=M):
    return jnp.asarray(np.random.default_rng(time).normal(size=(BATCH, time, size)), "float32")


def in_torch(tree):
    return jax.tree.map(lambda a: torch.tensor(np.asarray(a), dtype=torch.float64), tree)


def difference(ours, reference):
    """The largest difference over the largest value of the reference."""
    reference = np.asarray(reference)
    return np.max(np.abs(np.asarray(ours, np.float64) - reference)) / (
        np.max(np.abs(reference)) or 1
    )


@cache
def reference_of(kind, time):
    """States by the equations, and the gradients of their sum with weights, in float64."""
    x = in_torch(inputs_of(time)).requires_grad_()
    p = {name: v.requires_grad_() for name, v in in_torch(cell_of(kind)[1]).items()}
    states = EQUATIONS[kind](x, p)
    torch.sum(states * in_torch(inputs_of(time, size=D))).backward()
    return states.detach(), {name: v.grad for name, v in p.items()} | {"x": x.grad}


@by_kind
@pytest.mark.parametrize("time", [1, 33, 1000])
def test_states_and_gradients_are_those_of_the_equations(kind, time, form, precision):
    dtype, bound = precision
    bound *= 10 if kind is LRU else 1  # of complex numbers
    run, parameters = cell_of(kind)
    given = jax.tree.map(lambda a: a.astype(dtype), {**parameters, "x": inputs_of(time)})
    weights = inputs_of(time, size=D)

    @jax.jit
    def states_and_gradients(given):
        def loss(given):
            states = run({name: given[name] for name in parameters}, given["x"])
            return jnp.sum(states * weights), states

        return jax.grad(loss, has_aux=True)(given)

    gradients, states = states_and_gradients(given)
    expected, of_all = reference_of(kind, time)
    assert states.dtype == dtype and difference(states, expected) < bound
    for name, value in of_all.items():
        assert difference(gradients[name], value) < 10 * bound, name


@by_kind
def test_padding_behind_changes_nothing_even_where_it_is_no_number(kind, form):
    run, parameters = cell_of(kind)
    inputs, lengths = inputs_of(9), jnp.array([9, 4, 1])
    mask = jnp.arange(9)[None] < lengths[:, None]
    padded = jnp.where(mask[..., None], inputs, jnp.nan)

    def loss(parameters, inputs, mask, counted):
        return jnp.sum(jnp.where(counted[..., None], run(parameters, inputs, mask), 0) ** 3)

    (together, of_inputs) = jax.jit(jax.grad(loss, (0, 1)))(parameters, padded, mask, mask)
    alone = [
        jax.grad(loss)(parameters, inputs[n : n + 1, :length], None, mask[n : n + 1, :length])
        for n, length in enumerate(lengths.tolist())
    ]
    for name, value in together.items():
        expected = sum(one[name] for one in alone)
        assert difference(value, expected) < 2e-6, name
    assert jnp.all(jnp.where(mask[..., None], jnp.isfinite(of_inputs), of_inputs == 0))


@pytest.mark.parametrize("kind", [MinGRU, MinLSTM])
def test_the_state_stays_where_the_mask_is_false(kind, form):
    run, parameters = cell_of(kind)
    mask = jnp.array([[False, True, False, False, True, True]] * BATCH)
    inputs = inputs_of(6)
    states = run(parameters, inputs, mask)
    kept = run(parameters, inputs[:, jnp.array([1, 4, 5])])
    expected = jnp.stack([jnp.zeros_like(kept[:, 0]), *kept[:, [0, 0, 0, 1, 2]].swapaxes(0, 1)], 1)
    np.testing.assert_allclose(states, expected, rtol=1e-6)


@by_kind
def test_later_inputs_never_change_earlier_states(kind, form):
    run, parameters = cell_of(kind)
    jacobian = jax.jacrev(lambda inputs: run(parameters, inputs)[0])(inputs_of(6))
    later = np.triu(np.ones((6, 6), bool), 1)  # [state, input]
    by_position = np.abs(np.asarray(jacobian))[:, :, 0].sum((1, 3))
    assert np.all(by_position[later] == 0) and np.all(by_position[~later] > 0)


@pytest.mark.parametrize("k", [-90.0, 90.0])
@pytest.mark.parametrize("kind", [MinGRU, MinLSTM])
def test_closed_and_open_gates_are_numbers_and_so_are_their_gradients(kind, k, form):
    run, parameters = cell_of(kind)
    parameters["b"] = parameters["b"].at[:, :-D].set(k)  # all gates, not what is written

    def loss(parameters):
        return jnp.sum(run(parameters, inputs_of(30)))

    value, gradients = jax.value_and_grad(loss)(parameters)
    assert all(map(np.all, map(np.isfinite, [value, *jax.tree.leaves(gradients)])))
    if kind is MinLSTM:  # of gates that are equally open half is kept
        parameters["W"] = parameters["W"].at[:, :-D].set(0)
        written = g(in_torch(inputs_of(30)) @ in_torch(parameters["W"])[:, -D:])
        parameters["b"] = parameters["b"].at[:, -D:].set(0)
        states = run(parameters, inputs_of(30))
        np.testing.assert_allclose(states[:, 0], written[:, 0] / 2, rtol=1e-6)


def log_form(k, a):
    """The minGRU of the paper in logarithms; the term of h_0 = 0 is left out."""
    log_g = jnp.where(a >= 0, jnp.log(jnp.maximum(a, 0) + 0.5), -jax.nn.softplus(-a))
    kept = jnp.cumsum(-jax.nn.softplus(k), axis=1)
    written = jax.lax.cumlogsumexp(-jax.nn.softplus(-k) + log_g - kept, axis=1)
    return jnp.exp(kept + written)


@pytest.mark.parametrize("time", [10, 100, 1000])
def test_the_form_in_logarithms_agrees_as_far_as_its_rounding_lets_it(time):
    run, parameters = cell_of(MinGRU)
    inputs = inputs_of(time)
    reference = gru_by_equations(in_torch(inputs), in_torch(parameters))
    sides = inputs @ parameters["W"] + parameters["b"][None]
    found = difference(log_form(*jnp.split(sides, 2, axis=-1)), reference)
    assert found < 1e-6 * time
    if time == 1000:  # so the linear form is the one to run
        assert difference(run(parameters, inputs), reference) < found / 10


@pytest.mark.parametrize("kind", [MinGRU, MinLSTM])
def test_weights_and_biases_start_as_those_of_pytorchs_linear(kind):
    cell = kind(16, 400, rngs=nnx.Rngs(1))
    for values in (cell.W[...], cell.b[...]):
        assert stats.kstest(np.ravel(values), stats.uniform(-0.25, 0.5).cdf).pvalue > 1e-3


def test_chrono_gives_each_unit_a_time_and_both_gates_the_same():
    limits = stats.uniform(1, 98)  # u on 1..99
    gru = MinGRU(M, 500, rngs=nnx.Rngs(2), chrono=100.0).b[...][0]
    assert stats.kstest(np.exp(-gru[:500]), limits.cdf).pvalue > 1e-3
    i, f, _ = np.split(MinLSTM(M, 500, rngs=nnx.Rngs(2), chrono=jnp.array(100.0)).b[...][0], 3)
    assert stats.kstest(np.exp(f), limits.cdf).pvalue > 1e-3
    np.testing.assert_array_equal(i, -f)
    raised = MinLSTM(M, 500, rngs=nnx.Rngs(2), forget_bias=3.0).b[...]
    plain = MinLSTM(M, 500, rngs=nnx.Rngs(2)).b[...]
    np.testing.assert_allclose((raised - plain)[0], np.repeat([0, 3, 0], 500), atol=1e-6)


def test_an_lru_starts_with_eigenvalues_uniform_on_a_ring_and_states_near_1():
    cell = LRU(8, 600, rngs=nnx.Rngs(3), r_min=0.5, r_max=0.9, max_phase=1.0)
    nu, th, ga, re, im = (
        np.asarray(v[...]) for v in (cell.nu, cell.th, cell.ga, cell.B_re, cell.B_im)
    )
    lam = np.exp(-np.exp(nu) + 1j * np.exp(th))
    assert stats.kstest(np.abs(lam) ** 2, stats.uniform(0.25, 0.56).cdf).pvalue > 1e-3
    assert stats.kstest(np.angle(lam), stats.uniform(0, 1).cdf).pvalue > 1e-3
    x = np.random.default_rng(0).normal(size=(64, 60, 8))
    drive = np.exp(ga) * (x @ (re + 1j * im))
    s = np.zeros(drive[:, 0].shape, complex)
    for t in range(60):
        s = lam * s + drive[:, t]
    assert abs(np.mean(np.abs(s) ** 2) - 1) < 0.1
    for name, scale in (("B_re", 16), ("B_im", 16), ("C_re", 600), ("C_im", 600)):
        assert abs(np.var(getattr(cell, name)[...]) * scale - 1) < 0.1


def test_an_lru_skips_only_where_inputs_and_units_are_as_many_and_says_so(capsys):
    assert LRU(D, D, rngs=nnx.Rngs(0)).d.shape == (D,)
    assert not hasattr(LRU(D + 3, D, rngs=nnx.Rngs(0)), "d")
    assert "no skip" in capsys.readouterr().err
    run, parameters = cell_of(LRU, size=D)
    inputs = inputs_of(20, size=D)
    expected = lru_by_equations(in_torch(inputs), in_torch(parameters))
    assert difference(run(parameters, inputs), expected) < 1e-5
