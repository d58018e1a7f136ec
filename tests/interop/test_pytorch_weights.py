"""Weights that come from the textbook's PyTorch program and go back to it."""

import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srn_jax.config import ExperimentConfig
from srn_jax.errors import UserError
from srn_jax.interop.pytorch import (
    TORCH_RNN,
    TORCH_SUFFIXES,
    load,
    parameters_from_state_dict,
    save,
    state_dict_from_parameters,
)
from srn_jax.training.model import classifier_with, new_classifier, parameters_of

M, D = 5, 7
TORCHS = [pytest.param(suffix, marks=pytest.mark.needs_torch) for suffix in TORCH_SUFFIXES]


def weights(framework=False, seed=0):
    """A state dict of NumPy arrays: with W, U and b, or of PyTorch's own `nn.RNN`."""
    random = np.random.default_rng(seed)
    shapes = {"embedding.W": (10, M), "linear.weight": (19, D), "linear.bias": (19,)}
    if framework:
        shapes |= {"rnn_model.weight_ih_l0": (D, M), "rnn_model.weight_hh_l0": (D, D)}
        shapes |= {"rnn_model.bias_ih_l0": (D,), "rnn_model.bias_hh_l0": (D,)}
    else:
        shapes |= {"rnn_model.W": (M, D), "rnn_model.U": (D, D), "rnn_model.b": (1, D)}
    state = {name: random.normal(size=shape) for name, shape in shapes.items()}
    state = {name: array.astype(np.float32) for name, array in state.items()}
    state["embedding.W"][0, :3] = -0.0, 1e-45, np.finfo(np.float32).max
    return state


def same_bits(one, other):
    """Whether two dictionaries, nested or not, hold the same names and the same bits."""
    leaves, structure = jax.tree.flatten(one)
    others, other_structure = jax.tree.flatten(other)
    return structure == other_structure and all(
        np.shape(a) == np.shape(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(leaves, others, strict=True)
    )


def pytorch_program(framework):
    """The textbook's network in PyTorch with M and D of its own."""
    torch = pytest.importorskip("torch")
    from pytorch_program import SRN, Embedding, Model_RNN4SeqClass

    class FrameworkRNN(torch.nn.RNN):
        def forward(self, inputs):
            return super().forward(inputs)[1][0]

    torch.manual_seed(0)
    program = Model_RNN4SeqClass()
    program.embedding = Embedding(10, M)
    program.rnn_model = FrameworkRNN(M, D, batch_first=True) if framework else SRN(M, D)
    program.linear = torch.nn.Linear(D, 19)
    return program


def logits_of_both(program, parameters):
    import torch

    digits = np.random.default_rng(1).integers(0, 10, (64, 9))
    with torch.no_grad():
        theirs = program(torch.tensor(digits)).numpy()
    return np.asarray(classifier_with(parameters)(jnp.asarray(digits, jnp.int8))), theirs


@pytest.mark.needs_torch
@pytest.mark.parametrize("framework", [False, True], ids=["srn", "nn.RNN"])
def test_a_network_from_pytorch_gives_the_logits_that_it_gave_there(framework, tmp_path):
    program = pytorch_program(framework)
    import torch

    ours, theirs = logits_of_both(program, parameters_from_state_dict(program.state_dict()))
    assert np.abs(ours - theirs).max() < 1e-6
    torch.save(program.state_dict(), tmp_path / "srn.pdparams")
    from_file, _ = logits_of_both(program, load(tmp_path / "srn.pdparams"))
    assert from_file.tobytes() == ours.tobytes()


@pytest.mark.needs_torch
def test_a_network_from_here_gives_the_same_logits_in_pytorch(tmp_path):
    program = pytorch_program(framework=False)
    import torch

    config = ExperimentConfig(hidden_size=D, embedding_size=M)
    parameters = parameters_of(new_classifier(config, jax.random.key(3)))
    state = torch.load(save(parameters, tmp_path / "new" / "srn.pth"), weights_only=True)
    program.load_state_dict(state)  # strict
    ours, theirs = logits_of_both(program, parameters)
    assert np.abs(ours - theirs).max() < 1e-6


@pytest.mark.needs_torch
def test_training_on_in_pytorch_does_not_change_what_was_taken_from_it():
    program = pytorch_program(framework=False)
    import torch

    parameters = parameters_from_state_dict(program.state_dict())
    before = program.rnn_model.U.detach().numpy().copy()
    with torch.no_grad():
        program.rnn_model.U.zero_()
    assert same_bits(parameters["srn"]["U"], before)


def test_there_and_back_is_the_same_to_the_bit():
    state = weights()
    assert same_bits(state_dict_from_parameters(parameters_from_state_dict(state)), state)


@pytest.mark.parametrize("suffix", [".npz", *TORCHS])
def test_through_a_file_and_back_is_the_same_to_the_bit(suffix, tmp_path):
    if suffix != ".npz":
        pytest.importorskip("torch")
    parameters = parameters_from_state_dict(weights())
    path = save(parameters, tmp_path / f"weights{suffix}")
    assert same_bits(load(path), parameters)
    once = path.read_bytes()
    assert save(parameters, path).read_bytes() == once


def test_the_two_biases_of_the_frameworks_rnn_add_up():
    state = weights(framework=True)
    srn = parameters_from_state_dict(state)["srn"]
    assert same_bits(srn["W"], state["rnn_model.weight_ih_l0"].T)
    assert same_bits(srn["U"], state["rnn_model.weight_hh_l0"].T)
    bias = state["rnn_model.bias_ih_l0"] + state["rnn_model.bias_hh_l0"]
    assert same_bits(srn["b"], bias[None])


def changed(name, value, framework=False):
    return weights(framework) | {name: value}


def without(name, framework=False):
    return {key: value for key, value in weights(framework).items() if key != name}


NAN = np.full((D, D), np.nan, np.float32)
REFUSED = {
    "a missing weight": (without("rnn_model.U"), "without rnn_model.U"),
    "a missing weight of nn.RNN": (
        without("rnn_model.bias_hh_l0", framework=True),
        "without rnn_model.bias_hh_l0",
    ),
    "an unknown weight": (changed("lstm.W", np.zeros(1)), "with lstm.W"),
    "a second layer": (
        changed("rnn_model.weight_ih_l1", np.zeros(1), framework=True),
        "with rnn_model.weight_ih_l1",
    ),
    "both forms at once": (weights() | weights(framework=True), "with rnn_model.W"),
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
        f"linear.weight has shape [{D}, 19], expected [19, 19]",
    ),
    "eleven digits": (
        changed("embedding.W", np.zeros((11, M), np.float32)),
        f"embedding.W has shape [11, {M}], expected [10, {M}]",
    ),
    "an embedding of no size": (
        changed("embedding.W", np.zeros((10, 0), np.float32)),
        "embedding.W has shape [10, 0], expected [10, 1]",
    ),
    "a vector for a matrix": (
        changed("embedding.W", np.zeros(10, np.float32)),
        "embedding.W has shape [10], expected [10, M]",
    ),
    "double precision": (
        changed("rnn_model.U", np.zeros((D, D))),
        "rnn_model.U is float64, expected float32",
    ),
    "whole numbers": (changed("linear.bias", np.zeros(19, int)), "linear.bias is int64"),
    "no array": (changed("linear.bias", "weights"), "linear.bias is str"),
    "a weight that diverged": (changed("rnn_model.U", NAN), "rnn_model.U has values that are not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_these_weights_is_refused_and_said(case):
    state, message = REFUSED[case]
    with pytest.raises(UserError) as refusal:
        parameters_from_state_dict(state)
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
        parameters_from_state_dict(changed("rnn_model.U", make(torch)))


def test_parameters_that_are_no_classifiers_are_refused(tmp_path):
    parameters = parameters_from_state_dict(weights())
    stacked = jax.tree.map(lambda array: array[None], parameters)
    for wrong in (stacked, {"srn": parameters["srn"]}, {}):
        with pytest.raises(UserError):
            save(wrong, tmp_path / "weights.npz")
    assert list(tmp_path.iterdir()) == []


def truncated(path):
    save(parameters_from_state_dict(weights()), path)
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
    torch.save(pytorch_program(framework=False), tmp_path / "c.pth")  # a module, not its weights
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
        save(parameters_from_state_dict(weights()), tmp_path / "new" / "weights.pt")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["weights", "weights.txt", "weights.npy", "weights.PTH"])
def test_a_file_of_unknown_kind_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"expected \.npz, \.pth, \.pt, \.pdparams"):
        load(tmp_path / name)
    with pytest.raises(UserError, match=r"expected \.npz, \.pth, \.pt, \.pdparams"):
        save(parameters_from_state_dict(weights()), tmp_path / name)


def test_a_place_that_is_taken_is_refused(tmp_path):
    parameters = parameters_from_state_dict(weights())
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UserError, match="can't be a folder"):
        save(parameters, tmp_path / "file" / "weights.npz")
    with pytest.raises(UserError, match="is a folder"):
        save(parameters, tmp_path / "folder.npz")


def test_every_name_of_a_state_dict_is_one_that_pytorch_gives():
    assert set(weights(framework=True)) == set(TORCH_RNN)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a small run in `run` and the textbook's data in `data`."""
    folder = tmp_path_factory.mktemp("convert")
    small = ("--platform", "cpu", "--lengths", 3, 6, "--seeds", 2, "--epochs", 12)
    for script, *options in (
        ("sweep.py", *small, "--out", folder / "run"),
        ("generate_data.py", "--out", folder / "data", "--lengths", 3, 6),
    ):
        command = [sys.executable, f"scripts/{script}", *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return folder


def accuracies(text):
    """Length and accuracy out of the lines of a table that end with an accuracy and a loss."""
    cells = [line.split() for line in text.splitlines()]
    return {row[0]: row[-2] for row in cells if len(row) in (3, 4) and row[0].isdigit()}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npz", *TORCHS[:1]])
def test_the_script_takes_weights_out_of_a_run_and_tests_them(suffix, work, run_script):
    if suffix != ".npz":
        pytest.importorskip("torch")
    cpu, path = ("--platform", "cpu"), work / f"srn{suffix}"
    out = run_script("convert.py", work / "run", "--length", 6, "--seed", 1, "--to", path, *cpu)
    assert (out.returncode, out.stdout, out.stderr) == (0, f"written: {path}\n", "")
    tested = run_script("convert.py", "--from", path, "--evaluate", work / "data", *cpu)
    assert tested.returncode == 0 and tested.stderr == ""
    assert list(accuracies(tested.stdout)) == ["3", "6"]
    options = ("--lengths", 6, "--seeds", 1, "--data", work / "data", *cpu)
    known = run_script("evaluate.py", work / "run", *options)
    assert accuracies(known.stdout)["6"] == accuracies(tested.stdout)["6"]


def test_the_script_does_not_overwrite_unless_told_to(work, run_script):
    path = work / "kept.npz"
    path.write_text("mine")
    options = (work / "run", "--length", 3, "--seed", 0, "--to", path, "--platform", "cpu")
    done = run_script("convert.py", *options)
    assert done.returncode == 2 and "--overwrite" in done.stderr
    assert path.read_text() == "mine"
    assert run_script("convert.py", *options, "--overwrite").returncode == 0
    assert load(path)["srn"]["W"].shape == (32, 32)


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
def test_a_mistake_on_the_command_line_is_one_line(options, message, run_script, tmp_path):
    done = run_script("convert.py", *options, cwd=tmp_path)
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
