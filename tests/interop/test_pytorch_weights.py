"""Weights that come from the textbook's PyTorch program and go back to it."""

import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import Recorder

from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.interop.pytorch import (
    LAYOUTS,
    LSTM,
    SRN,
    TORCH_GRU,
    TORCH_LSTM,
    TORCH_RNN,
    TORCH_SUFFIXES,
    load,
    network_from_state_dict,
    save,
    state_dict_of,
)
from srn_jax.interop.textbook_files import read_sequences, textbook_splits, write_splits
from srn_jax.runs.group import run_sweep
from srn_jax.tasks import Adding, DigitSum
from srn_jax.training.model import network_with, new_network, parameters_of

M, D = 5, 7
KINDS = {"srn": SRN, "lstm": LSTM, "nn.RNN": TORCH_RNN, "nn.LSTM": TORCH_LSTM, "nn.GRU": TORCH_GRU}
TORCHS = [pytest.param(suffix, marks=pytest.mark.needs_torch) for suffix in TORCH_SUFFIXES]


def shapes_of(kind):
    """The names and shapes of a state dict, as the textbook or PyTorch's documentation has them."""
    if kind == "srn":
        cell = {"W": (M, D), "U": (D, D), "b": (1, D)}
    elif kind == "lstm":
        cell = {
            f"{name}_{gate}": shape
            for gate in "ifoc"
            for name, shape in {"W": (M, D), "U": (D, D), "b": (1, D)}.items()
        }
    else:
        rows = {"nn.RNN": 1, "nn.LSTM": 4, "nn.GRU": 3}[kind] * D
        cell = {"weight_ih_l0": (rows, M), "weight_hh_l0": (rows, D)}
        cell |= {"bias_ih_l0": (rows,), "bias_hh_l0": (rows,)}
    around = {"embedding.W": (10, M), "linear.weight": (19, D), "linear.bias": (19,)}
    return around | {f"rnn_model.{name}": shape for name, shape in cell.items()}


def weights(kind="srn", seed=0):
    """A state dict of NumPy arrays."""
    random = np.random.default_rng(seed)
    state = {name: random.normal(size=shape) for name, shape in shapes_of(kind).items()}
    state = {name: array.astype(np.float32) for name, array in state.items()}
    state["embedding.W"][0, :3] = -0.0, 1e-45, np.finfo(np.float32).max
    return state


def parameters_from(state):
    return network_from_state_dict(state)[1]


def same_bits(one, other):
    """Whether two dictionaries, nested or not, hold the same names and the same bits."""
    leaves, structure = jax.tree.flatten(one)
    others, other_structure = jax.tree.flatten(other)
    return structure == other_structure and all(
        np.shape(a) == np.shape(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(leaves, others, strict=True)
    )


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
    network = network_with(DigitSum(), config, parameters)
    return np.asarray(network(jnp.asarray(digits, jnp.int8))), theirs


@pytest.mark.needs_torch
@pytest.mark.parametrize("kind", [*KINDS, "gru"])
def test_a_network_from_pytorch_gives_the_logits_that_it_gave_there(kind, tmp_path):
    program = pytorch_program(kind)
    import torch

    config, parameters = network_from_state_dict(program.state_dict())
    assert config.cell == kind.lower().removeprefix("nn.").replace("rnn", "srn")
    assert (config.embedding_size, config.hidden_size) == (M, D)
    ours, theirs = logits_of_both(program, config, parameters)
    assert np.abs(ours - theirs).max() < 1e-6
    torch.save(program.state_dict(), tmp_path / "net.pdparams")
    from_file, _ = logits_of_both(program, *load(tmp_path / "net.pdparams"))
    assert from_file.tobytes() == ours.tobytes()


@pytest.mark.needs_torch
@pytest.mark.parametrize(("cell", "kind"), [("srn", "srn"), ("lstm", "lstm"), ("gru", "nn.GRU")])
def test_a_network_from_here_gives_the_same_logits_in_pytorch(cell, kind, tmp_path):
    program = pytorch_program(kind)
    import torch

    config = ExperimentConfig(cell=cell, hidden_size=D, embedding_size=M)
    parameters = parameters_of(new_network(DigitSum(), config, jax.random.key(3)))
    state = torch.load(save(cell, parameters, tmp_path / "new" / "net.pth"), weights_only=True)
    program.load_state_dict(state)  # strict
    ours, theirs = logits_of_both(program, config, parameters)
    assert np.abs(ours - theirs).max() < 1e-6


@pytest.mark.needs_torch
def test_training_on_in_pytorch_does_not_change_what_was_taken_from_it():
    program = pytorch_program("srn")
    import torch

    parameters = parameters_from(program.state_dict())
    before = program.rnn_model.U.detach().numpy().copy()
    with torch.no_grad():
        program.rnn_model.U.zero_()
    assert same_bits(parameters["cell"]["U"], before)


@pytest.mark.parametrize("cell", ["srn", "residual-srn", "lstm", "gru"])
@pytest.mark.parametrize("task", [DigitSum(), Adding()], ids=["tokens", "vectors"])
def test_every_cell_goes_through_a_file_and_back_to_the_bit(cell, task, tmp_path):
    config = ExperimentConfig(cell=cell, hidden_size=D, embedding_size=M)
    parameters = parameters_of(new_network(task, config, jax.random.key(3)))
    path = save(cell, parameters, tmp_path / "weights.npz")
    known, again = load(path, "residual-srn" if cell == "residual-srn" else None)
    assert same_bits(again, parameters)
    assert (known.cell, known.hidden_size) == (cell, D)


def test_vocabulary_and_classes_are_those_of_the_weights():
    state = weights("lstm") | {"embedding.W": np.zeros((13, M), np.float32)}
    state |= {"linear.weight": np.ones((82, D), np.float32), "linear.bias": np.ones(82, np.float32)}
    parameters = parameters_from(state)
    assert parameters["embedding"]["table"].shape == (13, M)
    assert parameters["output"]["kernel"].shape == (D, 82)


def test_an_lstm_whose_candidate_is_called_a_is_the_same():
    state = weights("lstm")
    renamed = {name.replace("_c", "_a"): array for name, array in state.items()}
    assert renamed.keys() != state.keys()
    assert same_bits(parameters_from(renamed), parameters_from(state))


def test_weights_of_one_cell_are_not_taken_for_anothers(tmp_path):
    path = save("lstm", parameters_from(weights("lstm")), tmp_path / "weights.npz")
    with pytest.raises(
        UserError, match=r"weights\.npz: these are the weights of .* lstm, not of gru"
    ):
        load(path, "gru")
    with pytest.raises(UserError, match=r"mine\.py:Mine have no form in PyTorch, expected one of"):
        save("mine.py:Mine", parameters_from(weights()), path)


@pytest.mark.parametrize("kind", ["srn", "lstm", "nn.GRU"])
def test_there_and_back_is_the_same_to_the_bit(kind):
    state = weights(kind)
    config, parameters = network_from_state_dict(state)
    assert same_bits(state_dict_of(config.cell, parameters), state)


@pytest.mark.parametrize("suffix", [".npz", *TORCHS])
def test_through_a_file_and_back_is_the_same_to_the_bit(suffix, tmp_path):
    if suffix != ".npz":
        pytest.importorskip("torch")
    parameters = parameters_from(weights())
    path = save("srn", parameters, tmp_path / f"weights{suffix}")
    assert same_bits(load(path)[1], parameters)
    once = path.read_bytes()
    assert save("srn", parameters, path).read_bytes() == once


def test_the_two_biases_of_the_frameworks_rnn_add_up():
    state = weights("nn.RNN")
    srn = parameters_from(state)["cell"]
    assert same_bits(srn["W"], state["rnn_model.weight_ih_l0"].T)
    assert same_bits(srn["U"], state["rnn_model.weight_hh_l0"].T)
    bias = state["rnn_model.bias_ih_l0"] + state["rnn_model.bias_hh_l0"]
    assert same_bits(srn["b"], bias[None])


def test_the_two_biases_of_the_frameworks_gru_are_kept_apart():
    state = weights("nn.GRU")
    gru = parameters_from(state)["cell"]
    assert same_bits(gru["b"], state["rnn_model.bias_ih_l0"][None])
    assert same_bits(gru["c"], state["rnn_model.bias_hh_l0"][None])


def test_the_frameworks_lstm_has_its_gates_in_another_order():
    state = weights("nn.LSTM")
    i, f, candidate, o = np.split(state["rnn_model.weight_hh_l0"], 4)
    ours = np.concatenate([i, f, o, candidate]).T
    assert same_bits(parameters_from(state)["cell"]["U"], ours)


def test_bytes_in_another_order_are_the_same_weights():
    state = weights("lstm")
    swapped = {name: array.astype(">f4") for name, array in state.items()}
    assert same_bits(parameters_from(swapped), parameters_from(state))


def changed(name, value, kind="srn"):
    return weights(kind) | {name: value}


def without(name, kind="srn"):
    return {key: value for key, value in weights(kind).items() if key != name}


NAN = np.full((D, D), np.nan, np.float32)
REFUSED = {
    "a missing weight": (without("rnn_model.U"), "without rnn_model.U"),
    "a missing weight of nn.RNN": (
        without("rnn_model.bias_hh_l0", "nn.RNN"),
        "without rnn_model.bias_hh_l0",
    ),
    "an unknown weight": (changed("lstm.W", np.zeros(1)), "with lstm.W"),
    "a second layer": (
        changed("rnn_model.weight_ih_l1", np.zeros(1), "nn.RNN"),
        "with rnn_model.weight_ih_l1",
    ),
    "both forms at once": (weights() | weights("nn.RNN"), "with rnn_model.W"),
    "a whole checkpoint": ({"epoch": 3, "state_dict": weights()}, "with epoch, state_dict"),
    "nothing": ({}, "without embedding.W"),
    "no dictionary": ([1, 2], "expected a state dict of weights by name, got a list"),
    "one matrix of another size": (
        changed("rnn_model.U", np.zeros((D, D + 1), np.float32)),
        f"rnn_model.U has shape [{D}, {D + 1}], expected [{D}, {D}]",
    ),
    "a bias without its first axis": (
        changed("rnn_model.b", np.zeros(D, np.float32)),
        f"rnn_model.b has shape [{D}], expected [1, {D}]",
    ),
    "an output layer on its side, as Paddle's": (
        changed("linear.weight", np.zeros((D, 19), np.float32)),
        f"linear.weight has shape [{D}, 19], expected [19, {D}]",
    ),
    "an embedding of another size": (
        changed("embedding.W", np.zeros((10, M + 1), np.float32)),
        f"rnn_model.W has shape [{M}, {D}], expected [{M + 1}, {D}]",
    ),
    "a gate that is missing": (without("rnn_model.U_o", "lstm"), "without rnn_model.U_o"),
    "a candidate of both names": (
        changed("rnn_model.W_a", np.zeros((M, D), np.float32), "lstm"),
        "with rnn_model.W_a",
    ),
    "a gate of another size": (
        changed("rnn_model.b_f", np.zeros((1, D + 1), np.float32), "lstm"),
        f"rnn_model.b_f has shape [1, {D + 1}], expected [1, {D}]",
    ),
    "two gates": (
        changed("rnn_model.weight_hh_l0", np.zeros((2 * D, D), np.float32), "nn.RNN"),
        f"rnn_model.weight_hh_l0 has shape [{2 * D}, {D}], expected [{D}, {D}]",
    ),
    "an LSTM's input weights with a GRU's recurrent ones": (
        changed("rnn_model.weight_hh_l0", np.zeros((3 * D, D), np.float32), "nn.LSTM"),
        f"rnn_model.weight_ih_l0 has shape [{4 * D}, {M}], expected [{3 * D}, {M}]",
    ),
    "a projection": (
        changed("rnn_model.weight_hr_l0", np.zeros((3, D), np.float32), "nn.LSTM"),
        "with rnn_model.weight_hr_l0",
    ),
    "an embedding of no size": (
        changed("embedding.W", np.zeros((10, 0), np.float32)),
        "embedding.W has shape [10, 0], expected [10, 1]",
    ),
    "a vector for a matrix": (
        changed("embedding.W", np.zeros(10, np.float32)),
        "embedding.W has shape [10], expected [vocabulary, M]",
    ),
    "double precision": (
        changed("rnn_model.U", np.zeros((D, D))),
        "rnn_model.U is float64, expected float32",
    ),
    "a GRU's weights on their side": (
        changed("rnn_model.weight_hh_l0", np.zeros((D, 3 * D), np.float32), "nn.GRU"),
        f"rnn_model.weight_hh_l0 has shape [{D}, {3 * D}], expected [{3 * D}, {D}]",
    ),
    "a vector for a GRU's weights": (
        changed("rnn_model.weight_hh_l0", np.zeros(3 * D, np.float32), "nn.GRU"),
        f"rnn_model.weight_hh_l0 has shape [{3 * D}], expected [",
    ),
    "whole numbers": (changed("linear.bias", np.zeros(19, int)), "linear.bias is int64"),
    "no array": (changed("linear.bias", "weights"), "linear.bias is str"),
    "a weight that diverged": (changed("rnn_model.U", NAN), "rnn_model.U has values that are not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_these_weights_is_refused_and_said(case):
    state, message = REFUSED[case]
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
        lambda torch: torch.zeros(D, D, dtype=torch.complex64),
    ],
    ids=["sparse", "meta", "bfloat16", "complex"],
)
def test_an_odd_tensor_is_refused(make):
    torch = pytest.importorskip("torch")
    with pytest.raises(UserError, match=r"^rnn_model\.U is "):
        parameters_from(changed("rnn_model.U", make(torch)))


def test_parameters_that_are_no_classifiers_are_refused(tmp_path):
    parameters = parameters_from(weights())
    stacked = jax.tree.map(lambda array: array[None], parameters)
    for wrong in (stacked, {"cell": parameters["cell"]}, {}):
        with pytest.raises(UserError):
            save("srn", wrong, tmp_path / "weights.npz")
    assert list(tmp_path.iterdir()) == []


def truncated(path):
    save("srn", parameters_from(weights()), path)
    path.write_bytes(path.read_bytes()[:-100])


def pickled_object(path):
    np.savez(path, **without("linear.bias"), **{"linear.bias": np.array([object()])})


def single_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros((D, D), np.float32))


NO_WEIGHTS = {
    "missing": (lambda path: None, "cannot be read (No such file or directory)"),
    "a folder": (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
    "empty": (lambda path: path.write_bytes(b""), "not a file that np.savez"),
    "text": (lambda path: path.write_text("3 4 0 0 0\t7\n" * 100), "not a file that np.savez"),
    "cut off": (truncated, "not a file that np.savez"),
    "with a pickled object": (pickled_object, "not a file that np.savez"),
    "a single array": (single_array, "not a file that np.savez"),
    "of something else": (lambda path: np.savez(path, loss=np.zeros(3)), "with loss"),
}


@pytest.mark.parametrize("case", NO_WEIGHTS)
def test_a_file_of_numpys_without_weights_is_refused_by_name(case, tmp_path):
    make, message = NO_WEIGHTS[case]
    path = tmp_path / "weights.npz"
    make(path)
    with pytest.raises(UserError) as refusal:
        load(path)
    assert str(refusal.value).startswith(f"{path}: ") and message in str(refusal.value)


class Intruder:
    """Something that creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.needs_torch
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_file_is_not_run(protocol, tmp_path):
    torch = pytest.importorskip("torch")
    harm = tmp_path / "harm"
    torch.save({"embedding.W": Intruder(harm)}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Intruder(harm), protocol))
    torch.save(pytorch_program("srn"), tmp_path / "c.pth")  # a module, not its weights
    for name in ("a.pth", "b.pth", "c.pth"):
        with pytest.raises(UserError, match=r"not a file that torch\.save") as refusal:
            load(tmp_path / name)
        assert "weights_only" not in str(refusal.value)  # PyTorch's advice to load it unsafely
    assert not harm.exists()


@pytest.mark.needs_torch
def test_a_file_of_pytorchs_without_weights_is_refused_by_name(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    for content in (b"", b"3 4 0 0 0\t7\n" * 100, pickle.dumps(weights())):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"not a file that torch\.save"):
            load(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(UserError, match="got a Tensor"):
        load(path)
    truncated(path)
    with pytest.raises(UserError, match=r"not a file that torch\.save"):
        load(path)


def test_without_pytorch_its_files_are_refused_and_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(UserError, match="need PyTorch"):
        load(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="need PyTorch"):
        save("srn", parameters_from(weights()), tmp_path / "new" / "weights.pt")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["weights", "weights.txt", "weights.npy", "weights.PTH"])
def test_a_file_of_unknown_kind_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"expected \.npz, \.pth, \.pt, \.pdparams"):
        load(tmp_path / name)
    with pytest.raises(UserError, match=r"expected \.npz, \.pth, \.pt, \.pdparams"):
        save("srn", parameters_from(weights()), tmp_path / name)


def test_a_place_that_is_taken_is_refused(tmp_path):
    parameters = parameters_from(weights())
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UserError, match="can't be a folder"):
        save("srn", parameters, tmp_path / "file" / "weights.npz")
    with pytest.raises(UserError, match="is a folder"):
        save("srn", parameters, tmp_path / "folder.npz")


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_of_a_state_dict_is_one_of_its_layout(kind):
    around = {"embedding.W", "linear.weight", "linear.bias"}
    assert set(shapes_of(kind)) - around == set(KINDS[kind].tensors)
    assert len(LAYOUTS) == len(KINDS)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a small run in `run` and the textbook's data in `data`."""
    folder = tmp_path_factory.mktemp("convert")
    settings = ExperimentConfig(
        epochs=8, hidden_size=D, embedding_size=M, eval_interval=20, loss_reduction="sum"
    )
    run_sweep(SweepConfig((3, 6), (0, 1), settings), folder / "run", Recorder())
    for length, splits in textbook_splits((3, 6)):
        write_splits(folder / "data", length, splits)
    return folder


def accuracies(text):
    """Length and accuracy out of the lines of a table that end with an accuracy and a loss."""
    cells = [line.split() for line in text.splitlines()]
    return {row[0]: row[-2] for row in cells if len(row) in (3, 4) and row[0].isdigit()}


@pytest.mark.slow
def test_the_script_takes_weights_out_of_a_run_and_tests_them(work, run_here):
    cpu, path = ("--platform", "cpu"), work / "srn.npz"
    out = run_here("convert.py", work / "run", "--length", 6, "--seed", 1, "--to", path, *cpu)
    assert (out.returncode, out.stdout, out.stderr) == (0, f"written: {path}\n", "")
    tested = run_here("convert.py", "--from", path, "--evaluate", work / "data", *cpu)
    assert tested.returncode == 0 and tested.stderr == ""
    assert list(accuracies(tested.stdout)) == ["3", "6"]
    options = ("--lengths", 6, "--first-seed", 1, "--data", work / "data", *cpu)
    known = run_here("evaluate.py", work / "run", *options)
    assert accuracies(known.stdout)["6"] == accuracies(tested.stdout)["6"]


@pytest.mark.slow
def test_the_loss_of_a_file_and_of_a_run_is_the_mean_over_examples(work, run_here):
    path, data = work / "mean.npz", ("--evaluate", work / "data", "--platform", "cpu")
    run = run_here(
        "convert.py", work / "run", "--length", 6, "--seed", 1, "--to", path, *data
    ).stdout
    assert run_here("convert.py", "--from", path, *data).stdout in run
    assert "test loss: the mean over examples" in run
    test = read_sequences(work / "data" / "6" / "test.txt", 6)
    logits = network_with(DigitSum(), *load(path))(test.digits)
    loss = np.mean(np.asarray(DigitSum().loss(logits, test.labels)))
    (row,) = [line.split() for line in run.splitlines() if line.split()[0] == "6"]
    assert float(row[-1]) == pytest.approx(loss, abs=1e-4)


def test_networks_of_vectors_are_not_tested_on_tokens(run_here, tmp_path):
    config = ExperimentConfig(hidden_size=D)
    parameters = parameters_of(new_network(Adding(), config, jax.random.key(3)))
    path = save("srn", parameters, tmp_path / "weights.npz")
    (tmp_path / "data" / "9").mkdir(parents=True)  # in which there is nothing to read
    done = run_here("convert.py", "--from", path, "--evaluate", tmp_path / "data")
    assert done.returncode == 2 and "the networks have another task" in done.stderr


@pytest.mark.slow
def test_the_script_does_not_overwrite_unless_told_to(work, run_here):
    path = work / "kept.npz"
    path.write_text("mine")
    options = (work / "run", "--length", 3, "--seed", 0, "--to", path, "--platform", "cpu")
    done = run_here("convert.py", *options)
    assert done.returncode == 2 and "--overwrite" in done.stderr
    assert path.read_text() == "mine"
    assert run_here("convert.py", *options, "--overwrite").returncode == 0
    assert load(path)[1]["cell"]["W"].shape == (M, D)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "weights come from a RUN or --from a FILE"),
        (("run", "--from", "w.npz"), "weights come from a RUN or --from a FILE"),
        (("run", "--to", "w.npz"), "say which: --length and --seed"),
        (("--from", "w.npz", "--seed", 1, "--to", "x.npz"), "leave them out with --from"),
        (("--from", "w.npz"), "nothing to do"),
        (("--from", "w.npz", "--evaluate", "nowhere"), "nowhere: no such folder of data"),
        (("--from", "w.npz", "--to", "x.npz", "--platform", "cpu"), "w.npz: cannot be read"),
        (("--from", "w.txt", "--to", "x.npz", "--platform", "cpu"), "w.txt: not a file of weights"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    options, message, run_here, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = run_here("convert.py", *options)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_scripts_help_does_not_start_jax():
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        "try: runpy.run_path('scripts/convert.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'jax', 'torch'} & set(sys.modules), 'started too much'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
