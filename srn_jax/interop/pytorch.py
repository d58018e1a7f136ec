"""Weights of PyTorch programs as a network here, and back, to the bit.

A state dict is read by its structure; modules may have any names:

    one table                       weight or W  [vocabulary, M]; none where the inputs are vectors
    one cell, either the textbook's
      SRN                           W, U, b, or Wx, Wh, b in its new edition
      LSTM                          W_i, U_i, b_i and so on with f, o and c, or a for c
      where                         W [M, D], U [D, D], b [1, D] or [D]
    or PyTorch's own                weight_ih_l0 [gates * D, M], weight_hh_l0 [gates * D, D],
      nn.RNN, nn.LSTM, nn.GRU       bias_ih_l0, bias_hh_l0 [gates * D]
    one linear layer                weight [outputs, D], bias [outputs]

A linear layer on its side, as Paddle has it, is known by its shape. Written are the textbook's own
names, or those of `nn.GRU`. Files are what `torch.save(model.state_dict(), path)` writes (.pth,
.pt, .pdparams), or an .npz, which needs no PyTorch. Nothing in a file is ever executed.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.config import ExperimentConfig
from srn_jax.errors import UserError
from srn_jax.files import write_atomically

SUFFIXES = (".npz", ".pth", ".pt", ".pdparams")
PART = re.compile(
    r"(?:(?P<module>.*)\.)?(?P<kind>W|Wx|U|Wh|b|weight_ih|weight_hh|bias_ih|bias_hh)"
    r"(?P<gate>_(?:[ifoca]|l0))?"
)
KINDS = {"Wx": "W", "weight_ih": "W", "Wh": "U", "weight_hh": "U", "bias_ih": "b", "bias_hh": "c"}
BY_GATE = {"srn": [""], "lstm": ["_i", "_f", "_o", "_c"]}  # the names' ends, in the cell's order
STACKED = {1: ("srn", [0]), 3: ("gru", [0, 1, 2]), 4: ("lstm", [0, 1, 3, 2])}  # by their number
SAME_TENSORS = {"residual-srn": "srn", "irnn": "srn"}  # they do not say what is done with them
PADDLE = (
    "a file of Paddle's is a pickle, which could run anything, and is not opened: in Paddle, "
    "np.savez('weights.npz', **{k: v.numpy() for k, v in model.state_dict().items()}) writes one "
    "that can be read"
)


def network_from_state_dict(
    state: Mapping[str, Any], cell: str | None = None, layout: str | None = None
) -> tuple[ExperimentConfig, dict[str, Any]]:
    """Cell and sizes, and the parameters as `network_with` takes them, of float32 weights by name.

    `cell` is what they are of; None takes it from the names, which do not tell a `residual-srn`
    from an `srn`. `layout`, "torch" or "paddle", is whose linear layer it is, where its shape does
    not tell. Raises `UserError` for what is not the weights of one such network.
    """
    if not isinstance(state, Mapping):
        raise UserError(f"expected a state dict of weights by name, got a {type(state).__name__}")
    if any(type(value).__module__.startswith("torch") for value in state.values()):
        layout = "torch"
    matches = {str(name): PART.fullmatch(str(name)) for name in state}
    found = {name: match for name, match in matches.items() if match}
    modules = [m["module"] for m in found.values() if m["kind"] in ("U", "Wh", "weight_hh")]
    parts = {name: match for name, match in found.items() if match["module"] in modules[:1]}
    rest = sorted(matches.keys() - parts.keys())
    biases = {name[:-4] + "weight": name for name in rest if name.endswith("bias")}
    linear = [(name, biases[name]) for name in rest if name in biases][:1]
    known = {name for pair in linear for name in pair}
    table = [n for n in rest if n not in known and n.rpartition(".")[2] in ("weight", "W")][:1]
    strange = [name for name in rest if name not in known.union(table)]
    words = ["without a recurrent cell"] * (not parts) + ["without a linear layer"] * (not linear)
    if words or strange:
        words += [f"with {', '.join(strange[:6])}"] * bool(strange)
        raise UserError(f"not the weights of one cell and a linear layer: {', '.join(words)}")
    arrays = {name: to_array(name, state[name]) for name in (*table, *parts, *known)}
    its, own = cell_of(parts, arrays)
    if cell is None and its == "srn" and "c" in own:
        raise UserError(
            "these are the weights of an nn.RNN, which do not say whether it is a tanh or a ReLU "
            "network: give `cell` srn for tanh, irnn for ReLU"
        )
    if cell and SAME_TENSORS.get(cell, cell) != its:
        raise UserError(f"these are the weights of the cell {its}, not of {cell}")
    if "c" in own and its != "gru":
        own["b"] = own["b"] + own.pop("c")
    width, size = len(own["W"]), len(own["U"])
    kernel, bias = (arrays[name] for name in linear[0])
    if layout is None and size == bias.size:
        raise UserError(
            f"{linear[0][0]} is square, so its shape does not say whether its rows are outputs (as "
            "PyTorch's) or inputs (as Paddle's): add layout='torch' or layout='paddle' to np.savez"
        )
    if layout == "paddle" or (layout is None and kernel.shape == (size, bias.size)):
        kernel = kernel.T
    check_shape(linear[0][1], bias, bias.size)
    kernel = check_shape(linear[0][0], kernel, bias.size, size).T
    parameters: dict[str, Any] = {"cell": own, "output": {"kernel": kernel, "bias": bias}}
    sizes: dict[str, Any] = {"hidden_size": size}
    for name in table:
        check_shape(name, arrays[name], len(np.atleast_1d(arrays[name])), width)
        parameters["embedding"] = {"table": arrays[name]}
        sizes["embedding_size"] = width
    return ExperimentConfig(cell=cell or its, **sizes), jax.tree.map(jnp.array, parameters)


def cell_of(
    parts: Mapping[str, re.Match[str]], arrays: Mapping[str, np.ndarray]
) -> tuple[str, dict[str, np.ndarray]]:
    """The cell that tensors are of, and its W, U, b and of PyTorch's own c; raises `UserError`."""
    names: dict[str, str] = {}  # such as U_f or, of all gates together, U_l0
    for name, match in parts.items():
        gate = (match["gate"] or "").replace("_a", "_c")
        names[KINDS.get(match["kind"], match["kind"]) + gate] = name
    stacked, cell = "U_l0" in names, "lstm" if "U_i" in names else "srn"
    ends, kinds = (["_l0"] if stacked else BY_GATE[cell]), "WUbc" if stacked else "WUb"
    wanted = {kind + end for kind in kinds for end in ends}
    if names.keys() != wanted or len(names) < len(parts):
        strange = ", ".join(sorted(names.keys() ^ wanted))
        raise UserError(f"{', '.join(parts)} are no cell: too many or too few {strange}")
    first, recurrent = (np.atleast_2d(arrays[names[kind + ends[0]]]) for kind in "WU")
    size = max(1, min(recurrent.shape))
    number = len(recurrent) // size if stacked else 1  # of gates in a tensor
    if number not in STACKED:
        shape = list(recurrent.shape)
        raise UserError(f"recurrent weights have shape {shape}, which no cell has")
    cell, order = STACKED[number] if stacked else (cell, [*range(len(ends))])
    own: dict[str, np.ndarray] = {}
    rows = {"W": first.shape[1 if stacked else 0], "U": size, "b": 1, "c": 1}
    for kind in kinds:
        blocks = []
        for end in ends:
            array = np.atleast_2d(arrays[names[kind + end]])
            turned = stacked and kind in "WU"
            wide = rows[kind], number * size
            check_shape(names[kind + end], array, *(wide[::-1] if turned else wide))
            blocks += np.split(array.T if turned else array, number, axis=1)
        own[kind] = np.concatenate([blocks[place] for place in order], axis=1)
    return cell, own


def check_shape(name: str, array: np.ndarray, *wanted: int) -> np.ndarray:
    """The array; raises `UserError` unless its shape is as wanted, and not empty."""
    if array.shape != wanted or not array.size:
        raise UserError(f"{name} has shape {list(array.shape)}, expected {list(wanted)}")
    return array


def to_array(name: str, value: Any) -> np.ndarray:
    """A tensor or array as a NumPy array; raises `UserError` if it is no weight."""
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, RuntimeError):  # sparse, of a type that NumPy lacks, or without values
        raise UserError(f"{name} is not an ordinary tensor of float32") from None
    if array.dtype != np.float32:  # a conversion would lose bits, or hide that this is no weight
        raise UserError(f"{name} is {array.dtype}, expected float32")
    if not np.isfinite(array).all():
        raise UserError(f"{name} has values that are not finite")
    return array


def state_dict_of(cell: str, parameters: dict[str, Any]) -> dict[str, np.ndarray]:
    """The state dict of a network by PyTorch's names; raises `UserError` for what has none."""
    known = SAME_TENSORS.get(cell, cell)
    if known not in (*BY_GATE, "gru"):
        names = ", ".join([*BY_GATE, "gru", *SAME_TENSORS])
        raise UserError(f"the weights of {cell} have no form in PyTorch, expected one of {names}")
    try:
        own, output = parameters["cell"], parameters["output"]
        state = {"linear.weight": output["kernel"].T, "linear.bias": output["bias"]}
        if "embedding" in parameters:
            state["embedding.W"] = parameters["embedding"]["table"]
        if known == "gru":
            for side, weight, bias in (("ih", "W", "b"), ("hh", "U", "c")):
                state[f"rnn_model.weight_{side}_l0"] = own[weight].T
                state[f"rnn_model.bias_{side}_l0"] = own[bias][0]
        else:
            for kind in "WUb":
                blocks = np.split(np.asarray(own[kind]), len(BY_GATE[known]), axis=-1)
                for end, block in zip(BY_GATE[known], blocks, strict=True):
                    state[f"rnn_model.{kind}{end}"] = block
    except (KeyError, ValueError) as error:
        raise UserError(f"not the parameters of a network of {cell}s: {error}") from None
    state = {name: np.array(array) for name, array in state.items()}
    network_from_state_dict(state, cell, "torch")
    return state


def load(path: Path | str, cell: str | None = None) -> tuple[ExperimentConfig, dict[str, Any]]:
    """Read a file of weights, whose suffix says of which kind it is; as `network_from_state_dict`.

    Raises `UserError` for anything but the weights of one network, or PyTorch that is not there.
    """
    path, layout = Path(path), None
    try:
        if path.suffix == ".pdparams" and path.is_file() and not zipfile.is_zipfile(path):
            raise UserError(PADDLE)
        library = library_of(path)
        if library is np:
            # NumPy leaves a file that it has opened itself open when it turns out to be no archive.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                state = dict(archive)
            layout = str(state.pop("layout")) if "layout" in state else None
            if layout not in (None, "torch", "paddle"):
                raise UserError(f"layout is {layout!r}, expected torch or paddle")
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old formats; what is in the file is checked
                state = library.load(path, map_location="cpu", weights_only=True)
        return network_from_state_dict(state, cell, layout)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a file that is something else fails in a dozen ways
        wrote = (
            "np.savez(path, **weights)" if path.suffix == ".npz" else "torch.save(weights, path)"
        )
        raise UserError(f"{path}: not a file that {wrote} wrote ({type(error).__name__})") from None


def save(cell: str, parameters: dict[str, Any], path: Path | str) -> Path:
    """Write a network as a file of weights, as `state_dict_of`; the suffix says of which kind."""
    path, buffer = Path(path), io.BytesIO()
    library, state = library_of(path), state_dict_of(cell, parameters)
    if library is np:
        np.savez(buffer, **state, layout=np.array("torch"))  # type: ignore[arg-type]
    else:
        library.save({name: library.from_numpy(array) for name, array in state.items()}, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path} can't be written ({error.strerror})") from None
    return path


def library_of(path: Path) -> Any:
    """NumPy or PyTorch, of which a file of weights is; raises `UserError` if it is neither's."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: not a file of weights, expected {', '.join(SUFFIXES)}")
    if path.suffix == ".npz":
        return np
    try:
        import torch
    except ImportError:
        needs = f"{path.suffix} files need PyTorch (pip install torch), .npz files do not"
        raise UserError(needs) from None
    return torch
