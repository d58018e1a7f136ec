"""Weights that come from PyTorch programs and go back to them."""

import os
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.interop.pytorch import load, network_from_state_dict, save, state_dict_of
from srn_jax.training.network import network_with, new_network, parameters_of
from srn_jax.training.program import program_of

M, D = 5, 7
CELLS = {"srn": "srn", "lstm": "lstm", "new srn": "srn", "new lstm": "lstm"}
CELLS |= {"nn.RNN": "srn", "nn.LSTM": "lstm", "nn.GRU": "gru"}
TORCHS = [pytest.param(s, marks=pytest.mark.needs_torch) for s in (".pth", ".pdparams")]


def shapes_of(kind, size=D):
    """The names and shapes of a state dict, as the textbook or PyTorch's documentation has them."""
    around = {"embedding.W": (10, M), "linear.weight": (19, size), "linear.bias": (19,)}
    new = {"emb.weight": (10, M), "fc.weight": (19, size), "fc.bias": (19,)}
    if kind == "srn":
        cell = {"rnn_model.W": (M, size), "rnn_model.U": (size, size), "rnn_model.b": (1, size)}
    elif kind == "new srn":
        around, cell = new, {"Wx": (M, size), "Wh": (size, size), "b": (size,)}
    elif kind == "lstm":
        shapes = {"W": (M, size), "U": (size, size), "b": (1, size)}
        cell = {f"rnn_model.{name}_{gate}": shapes[name] for gate in "ifoc" for name in shapes}
    else:
        around = new if kind.startswith("new") else around
        module = "lstm" if kind.startswith("new") else "rnn_model"
        rows = {"nn.RNN": 1, "nn.GRU": 3}.get(kind, 4) * size
        cell = {f"{module}.weight_ih_l0": (rows, M), f"{module}.weight_hh_l0": (rows, size)}
        cell |= {f"{module}.bias_{side}_l0": (rows,) for side in ("ih", "hh")}
    return around | cell


def weights(kind="srn", seed=0, size=D):
    """A state dict of NumPy arrays."""
    random = np.random.default_rng(seed)
    state = {name: random.normal(size=shape) for name, shape in shapes_of(kind, size).items()}
    state = {name: array.astype(np.float32) for name, array in state.items()}
    next(iter(state.values()))[0, :3] = -0.0, 1e-45, np.finfo(np.float32).max
    return state


def parameters_from(state, cell=None):
    return network_from_state_dict(state, cell)[1]


def same_bits(one, other):
    """Whether two dictionaries, nested or not, hold the same names and the same bits."""
    leaves, structure = jax.tree.flatten(one)
    others, other_structure = jax.tree.flatten(other)
    return structure == other_structure and all(
        np.shape(a) == np.shape(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(leaves, others, strict=True)
    )


def drawn(cell, task="digit-sum"):
    """A program with the given cell, and the parameters of a network of it."""
    config = ExperimentConfig(task=task, cell=cell, hidden_size=D, embedding_size=M)
    program = program_of([SweepConfig(lengths=(9,), seeds=(0,), experiment=config)])
    return program, parameters_of(new_network(program, jax.random.key(3)))


def pytorch_program(kind):
    """The textbook's network in PyTorch with M and D of its own."""
    torch = pytest.importorskip("torch")
    import pytorch_program as textbook

    cells = {"srn": textbook.SRN, "lstm": textbook.LSTM, "gru": textbook.GRU}
    cells |= {"nn.RNN": textbook.BuiltInRNN, "nn.LSTM": textbook.BuiltInLSTM}
    cells |= {"nn.GRU": textbook.BuiltInGRU}
    torch.manual_seed(0)
    program = textbook.Model_RNN4SeqClass()
    program.embedding = textbook.Embedding(10, M)
    program.rnn_model = cells[kind](M, D)
    program.linear = torch.nn.Linear(D, 19)
    return program


def logits_of_both(program, config, parameters):
    import torch

    digits = np.random.default_rng(1).integers(0, 10, (64, 9))
    with torch.no_grad():
        theirs = program(torch.tensor(digits)).numpy()
    ours = program_of([SweepConfig(lengths=(9,), seeds=(0,), experiment=config)])
    network = network_with(ours, parameters)
    return np.asarray(network(jnp.asarray(digits, jnp.int8))), theirs


@pytest.mark.needs_torch
@pytest.mark.parametrize("kind", ["srn", "lstm", "gru", "nn.RNN", "nn.LSTM", "nn.GRU"])
def test_a_network_from_pytorch_gives_the_logits_that_it_gave_there(kind, tmp_path):
    program = pytorch_program(kind)
    import torch

    cell = "srn" if kind == "nn.RNN" else None
    config, parameters = network_from_state_dict(program.state_dict(), cell)
    assert config.cell == kind.lower().removeprefix("nn.").replace("rnn", "srn")
    assert (config.embedding_size, config.hidden_size) == (M, D)
    ours, theirs = logits_of_both(program, config, parameters)
    assert np.abs(ours - theirs).max() < 1e-6
    if kind in ("srn", "lstm", "nn.GRU"):  # written with the names that it has there
        theirs = {name: value.numpy() for name, value in program.state_dict().items()}
        assert same_bits(state_dict_of(config.cell, parameters), theirs)
    torch.save(program.state_dict(), tmp_path / "net.pdparams")
    with torch.no_grad():  # training on there changes nothing here
        for value in program.parameters():
            value.zero_()
    assert same_bits(load(tmp_path / "net.pdparams", cell)[1], parameters)


@pytest.mark.parametrize("cell", ["srn", "residual-srn", "lstm", "gru"])
@pytest.mark.parametrize("task", ["digit-sum", "adding"])
@pytest.mark.parametrize("suffix", [".npz", *TORCHS])
def test_every_cell_goes_through_a_file_and_back_to_the_bit(cell, task, suffix, tmp_path):
    if suffix != ".npz":
        pytest.importorskip("torch")
    _, parameters = drawn(cell, task)
    path = save(cell, parameters, tmp_path / f"weights{suffix}")
    known, again = load(path, "residual-srn" if cell == "residual-srn" else None)
    assert same_bits(again, parameters)
    assert (known.cell, known.hidden_size) == (cell, D)
    once = path.read_bytes()
    assert save(cell, parameters, path).read_bytes() == once


@pytest.mark.parametrize("kind", CELLS)
def test_weights_are_known_by_their_structure_whatever_their_modules_are_called(kind):
    cell = "srn" if kind == "nn.RNN" else None
    config, parameters = network_from_state_dict(weights(kind), cell)
    assert (config.cell, config.hidden_size, config.embedding_size) == (CELLS[kind], D, M)
    swaps = {"embedding.W": "model.embed.weight", "linear": "module.head", "fc": "classifier"}
    state = weights(kind)
    for old, new in swaps.items():
        state = {name.replace(old, new): array for name, array in state.items()}
    assert same_bits(parameters_from(state, cell), parameters)
    again = state_dict_of(config.cell, parameters)
    assert same_bits(parameters_from(again), parameters)
    if kind in ("srn", "lstm", "nn.GRU"):
        assert same_bits(again, weights(kind))


def test_gates_stand_where_the_cell_has_them():
    state = weights("nn.LSTM")
    i, f, candidate, o = np.split(state["rnn_model.weight_hh_l0"], 4)
    assert same_bits(parameters_from(state)["cell"]["U"], np.concatenate([i, f, o, candidate]).T)
    both = state["rnn_model.bias_ih_l0"] + state["rnn_model.bias_hh_l0"]
    i, f, candidate, o = np.split(both, 4)
    assert same_bits(
        parameters_from(state)["cell"]["b"], np.concatenate([i, f, o, candidate])[None]
    )
    state = weights("lstm")
    renamed = {name.replace("_c", "_a"): array for name, array in state.items()}
    assert renamed.keys() != state.keys()
    assert same_bits(parameters_from(renamed), parameters_from(state))
    one = np.concatenate([state[f"rnn_model.W_{gate}"] for gate in "ifoc"], axis=1)
    assert same_bits(parameters_from(state)["cell"]["W"], one)


def test_a_linear_layer_on_its_side_is_known_by_its_shape_or_refused(tmp_path):
    state = weights()
    turned = state | {"linear.weight": state["linear.weight"].T}
    assert same_bits(parameters_from(turned), parameters_from(state))
    square = weights(size=19)
    with pytest.raises(UserError, match="square, so its shape does not say"):
        parameters_from(square)
    for layout, kernel in (
        ("torch", square["linear.weight"].T),
        ("paddle", square["linear.weight"]),
    ):
        np.savez(tmp_path / "w.npz", **square, layout=layout)
        found = load(tmp_path / "w.npz")[1]
        assert same_bits(found["output"]["kernel"], kernel)
    assert same_bits(load(save("srn", found, tmp_path / "again.npz"))[1], found)
    np.savez(tmp_path / "w.npz", **square, layout="keras")
    with pytest.raises(UserError, match="layout is 'keras', expected torch or paddle"):
        load(tmp_path / "w.npz")


def test_what_a_plain_rnn_does_must_be_said(tmp_path):
    with pytest.raises(UserError, match="do not say whether it is a tanh or a ReLU network: give"):
        parameters_from(weights("nn.RNN"))
    config, _ = network_from_state_dict(weights("nn.RNN"), "residual-srn")
    assert config.cell == "residual-srn"
    path = save("lstm", parameters_from(weights("lstm")), tmp_path / "weights.npz")
    with pytest.raises(UserError, match=r"weights\.npz: .* of the cell lstm, not of gru"):
        load(path, "gru")
    with pytest.raises(UserError, match=r"mine\.py:Mine have no form in PyTorch, expected one of"):
        save("mine.py:Mine", parameters_from(weights()), path)


def zeros(*shape):
    return np.zeros(shape, np.float32)


RNN, IH, HH = "rnn_model.", "rnn_model.weight_ih_l0", "rnn_model.weight_hh_l0"
REFUSED = [  # a kind of weights, what is changed in them (None: left out), and what is said
    ("srn", {RNN + "U": None}, "without a recurrent cell"),
    ("srn", {RNN + "b": None}, "are no cell: too many or too few b"),
    ("nn.GRU", {RNN + "bias_hh_l0": None}, "too few c_l0"),
    ("srn", {"linear.bias": None}, "without a linear layer"),
    ("srn", {"norm.scale": zeros(1)}, "with norm.scale"),
    ("nn.GRU", {RNN + "weight_ih_l1": zeros(1)}, "weight_ih_l1"),
    ("nn.GRU", {HH + "_reverse": zeros(1)}, "with rnn_model.weight_hh_l0_reverse"),
    ("srn", weights("nn.GRU"), "are no cell"),
    ("srn", {"other.U": zeros(D, D)}, "with other.U"),
    ("srn", {"z.weight": zeros(3, D), "z.bias": zeros(3)}, "with z.bias, z.weight"),
    ("srn", {"epoch": 3, "state_dict": {}}, "with epoch, state_dict"),
    ("srn", {0: zeros(1)}, "with 0"),
    ("srn", {RNN + "U": zeros(D, D + 1)}, f"U has shape [{D}, {D + 1}], expected [{D}, {D}]"),
    ("srn", {"linear.weight": zeros(19, D + 1)}, f"weight has shape [19, {D + 1}], expected [19,"),
    ("srn", {"embedding.W": zeros(10, M + 1)}, f"has shape [10, {M + 1}], expected [10, {M}]"),
    ("srn", {"embedding.W": zeros(10)}, "has shape [10], expected [10,"),
    ("lstm", {RNN + "U_o": None}, "too few U_o"),
    ("lstm", {RNN + "W_a": zeros(M, D)}, "are no cell"),
    ("lstm", {RNN + "b_f": zeros(1, D + 1)}, f"b_f has shape [1, {D + 1}], expected [1, {D}]"),
    ("nn.RNN", {HH: zeros(2 * D, D)}, "have shape [14, 7]"),
    ("nn.LSTM", {HH: zeros(3 * D, D)}, f"{IH} has shape [{4 * D}, {M}], expected [{3 * D}, {M}]"),
    ("nn.LSTM", {RNN + "weight_hr_l0": zeros(3, D)}, "with rnn_model.weight_hr_l0"),
    ("nn.GRU", {HH: zeros(D, 3 * D)}, "has shape ["),
    ("nn.GRU", {HH: zeros(3 * D)}, "has shape ["),
    ("srn", {RNN + "U": np.zeros((D, D))}, "rnn_model.U is float64"),
    ("srn", {RNN + "U": zeros(D, D).astype(">f4")}, "rnn_model.U is >f4"),
    ("srn", {"linear.bias": "weights"}, "linear.bias is <U7"),
    ("srn", {RNN + "U": zeros(D, D) * np.nan}, "rnn_model.U has values that are not"),
]


@pytest.mark.parametrize(("kind", "change", "message"), REFUSED)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_these_weights_is_refused_and_said(kind, change, message):
    state = {name: v for name, v in (weights(kind) | change).items() if v is not None}
    with pytest.raises(UserError) as refusal:
        parameters_from(state)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    "make",
    [
        lambda torch: torch.zeros(D, D).to_sparse(),
        lambda torch: torch.zeros(D, D, device="meta"),
        lambda torch: torch.zeros(D, D, dtype=torch.bfloat16),
    ],
    ids=["sparse", "meta", "bfloat16"],
)
def test_an_odd_tensor_is_refused(make):
    torch = pytest.importorskip("torch")
    with pytest.raises(UserError, match=r"^rnn_model\.U is "):
        parameters_from(weights() | {"rnn_model.U": make(torch)})


def truncated(path):
    save("srn", parameters_from(weights()), path)
    path.write_bytes(path.read_bytes()[:-100])


NO_WEIGHTS = [  # what makes a file, and what is said of it
    (lambda path: None, "cannot be read (No such file or directory)"),
    (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
    (lambda path: path.write_bytes(b""), "not a file that"),
    (lambda path: path.write_text("3 4 0 0 0\t7\n" * 100), "not a file that"),
    (truncated, "not a file that"),
    (lambda path: path.write_bytes(pickle.dumps(weights())), "not a file that"),
]


@pytest.mark.parametrize("suffix", [".npz", *TORCHS[:1]])
@pytest.mark.parametrize(("make", "message"), NO_WEIGHTS)
def test_a_file_without_weights_is_refused_by_name(make, message, suffix, tmp_path):
    if suffix != ".npz":
        pytest.importorskip("torch")
    path = tmp_path / f"weights{suffix}"
    make(path)
    with pytest.raises(UserError) as refusal:
        load(path)
    assert str(refusal.value).startswith(f"{path}: ") and message in str(refusal.value)


def test_what_is_no_table_of_weights_is_refused(tmp_path):
    path, parameters = tmp_path / "weights.npz", parameters_from(weights())
    np.savez(path, linear=np.array([object()]))  # pickled
    with pytest.raises(UserError, match="not a file that"):
        load(path)
    for wrong in (jax.tree.map(lambda array: array[None], parameters), {}):
        with pytest.raises(UserError):
            save("srn", wrong, tmp_path / "new" / "weights.npz")
    with pytest.raises(UserError, match="can't be written"):
        save("srn", parameters, path / "weights.npz")
    for action in (load, lambda path: save("srn", parameters, path)):
        with pytest.raises(UserError, match=r"expected \.npz, \.pth, \.pt, \.pdparams"):
            action(tmp_path / "weights.npy")
    with pytest.raises(UserError, match="got a list"):
        parameters_from([1, 2])


class Intruder:
    """Something that creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.needs_torch
def test_code_in_a_file_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    harm = tmp_path / "harm"
    torch.save({"embedding.W": Intruder(harm)}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Intruder(harm)))
    torch.save(pytorch_program("srn"), tmp_path / "c.pth")  # a module, not its weights
    for name in ("a.pth", "b.pth", "c.pth"):
        with pytest.raises(UserError, match=r"not a file that torch\.save") as refusal:
            load(tmp_path / name)
        assert "weights_only" not in str(refusal.value)  # PyTorch's advice to load it unsafely
    paddles = tmp_path / "d.pdparams"
    paddles.write_bytes(pickle.dumps(Intruder(harm)))
    with pytest.raises(UserError, match=r"Paddle's is a pickle.* in Paddle, np\.savez"):
        load(paddles)
    assert not harm.exists()


def test_without_pytorch_its_files_are_refused_and_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(UserError, match="need PyTorch"):
        load(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="need PyTorch"):
        save("srn", parameters_from(weights()), tmp_path / "new" / "weights.pt")
    assert not (tmp_path / "new").exists()
