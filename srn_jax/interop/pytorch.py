"""Weights of the textbook's PyTorch program as a network here, and back, to the bit.

That program's network is `Model_RNN4SeqClass`. Its state dict, and what it is here:

    embedding.W      [vocabulary, M]    embedding table; missing where the inputs are vectors of M
    rnn_model.*                         the cell, see below
    linear.weight    [outputs, D]       output kernel, transposed
    linear.bias      [outputs]          output bias

The textbook's own classes have tensors for each gate: W, U and b (SRN), or W_i, U_i, b_i and so on
with i, f, o and c (LSTM; some copies write a for c, which is read as well):

    rnn_model.W*     [M, D]             columns of the cell's W
    rnn_model.U*     [D, D]             columns of U
    rnn_model.b*     [1, D]             columns of b

PyTorch's own `nn.RNN` (tanh), `nn.LSTM` and `nn.GRU` of one layer stack their gates as rows:

    rnn_model.weight_ih_l0                          [gates * D, M]    W, transposed
    rnn_model.weight_hh_l0                          [gates * D, D]    U, transposed
    rnn_model.bias_ih_l0, rnn_model.bias_hh_l0      [gates * D]       b and c, or b their sum

A file is what `torch.save(model.state_dict(), path)` writes (.pth, .pt, .pdparams), or an .npz with
the same names, which needs no PyTorch. Nothing in a file is ever executed.
"""

import dataclasses
import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from srn_jax.analysis.results import write_atomically
from srn_jax.cells import cell_class
from srn_jax.config import ExperimentConfig
from srn_jax.errors import UserError
from srn_jax.training.model import Parameters

NUMPY_SUFFIX = ".npz"
TORCH_SUFFIXES = (".pth", ".pt", ".pdparams")
SUFFIXES = (NUMPY_SUFFIX, *TORCH_SUFFIXES)
STACKED_U = "rnn_model.weight_hh_l0"
MOST_BYTES = 2**31  # no network of `config`'s largest sizes has more


class Tensor(NamedTuple):
    """A tensor of a cell in PyTorch: of which of W, U, b and c it is a part."""

    kind: str
    gates: tuple[int, ...]  # by their numbers in the cell: columns here, rows if it is stacked
    shape: tuple[int | str, ...]


class Layout(NamedTuple):
    """How a class of PyTorch's or of the textbook's holds the gates of a cell."""

    cell: str
    stacked: int  # gates that share each tensor; 0 if each gate has its own
    tensors: dict[str, Tensor]


def by_gate(cell: str, *suffixes: str) -> Layout:
    """The textbook's layout: tensors for each gate, in the cell's order, with these suffixes."""
    rows: dict[str, int | str] = {"W": "M", "U": "D", "b": 1}
    numbered = [(kind, *gate) for kind in rows for gate in enumerate(suffixes)]
    tensors = {f"rnn_model.{k}{s}": Tensor(k, (n,), (rows[k], "D")) for k, n, s in numbered}
    return Layout(cell, 0, tensors)


def stacked(cell: str, *gates: int) -> Layout:
    """PyTorch's layout: all gates, in this order, as rows of the same tensors."""
    shapes = {"U": ("gates * D", "D"), "W": ("gates * D", "M"), "b": ("gates * D",)}
    names = {"weight_hh": "U", "weight_ih": "W", "bias_ih": "b", "bias_hh": "c"}
    tensors = {n: Tensor(kind, gates, shapes[kind.replace("c", "b")]) for n, kind in names.items()}
    return Layout(cell, len(gates), {f"rnn_model.{n}_l0": tensor for n, tensor in tensors.items()})


# A cell is written in the first layout that it has.
SRN, LSTM, TORCH_RNN, TORCH_LSTM, TORCH_GRU = LAYOUTS = (
    by_gate("srn", ""),
    by_gate("lstm", "_i", "_f", "_o", "_c"),
    stacked("srn", 0),
    stacked("lstm", 0, 1, 3, 2),
    stacked("gru", 0, 1, 2),
)
SAME_TENSORS = {"residual-srn": "srn"}  # they do not say what is done with them


def layout_of(state: Mapping[str, Any]) -> Layout:
    """The layout of a state dict, by its names and, where gates are stacked, by their number."""
    if not any(name in state for name in TORCH_RNN.tensors):
        return LSTM if any(name in state for name in LSTM.tensors) else SRN
    # Sorted, so that a matrix on its side is told which shape it should have.
    columns, rows = sorted((*np.shape(state.get(STACKED_U, ())), 0, 0)[:2])
    return {3: TORCH_GRU, 4: TORCH_LSTM}.get(rows // max(columns, 1), TORCH_RNN)


def network_from_state_dict(
    state: Mapping[str, Any], cell: str | None = None
) -> tuple[ExperimentConfig, Parameters]:
    """Cell and sizes, and the parameters as `model.network_with` takes them, of a state dict.

    Args:
        state: float32 PyTorch tensors or NumPy arrays by name.
        cell: what the weights are of; None takes it from their names, which do not tell a
            `residual-srn` from an `srn`.

    Raises:
        UserError: for a name that is missing or unknown, or values that are not such weights.
    """
    layout, arrays = check_state_dict(state)
    cell = cell or layout.cell
    if SAME_TENSORS.get(cell, cell) != layout.cell:
        raise UserError(f"these are the weights of the cell {layout.cell}, not of {cell}")
    gates: dict[str, dict[int, np.ndarray]] = {}
    for name, tensor in layout.tensors.items():
        array = np.atleast_2d(arrays[name].T if layout.stacked else arrays[name])
        columns = zip(tensor.gates, np.split(array, len(tensor.gates), axis=1), strict=True)
        gates.setdefault(tensor.kind, {}).update(columns)
    own = {k: np.concatenate([one[n] for n in sorted(one)], axis=1) for k, one in gates.items()}
    if "c" in own and cell != "gru":
        own["b"] = own["b"] + own.pop("c")

    parameters: Parameters = {"cell": own}
    parameters["output"] = {"kernel": arrays["linear.weight"].T, "bias": arrays["linear.bias"]}
    config = ExperimentConfig(cell=cell, hidden_size=len(own["U"]))
    if "embedding.W" in arrays:
        parameters["embedding"] = {"table": arrays["embedding.W"]}
        config = dataclasses.replace(config, embedding_size=len(own["W"]))
    return config, {
        module: {name: jnp.asarray(array) for name, array in tensors.items()}
        for module, tensors in parameters.items()
    }


def state_dict_of(cell: str, parameters: Parameters) -> dict[str, np.ndarray]:
    """The state dict of a network with these parameters, in the first layout of its cell.

    Raises `UserError` for a cell that has none, or parameters that are not those of one network.
    """
    layouts = {layout.cell: layout for layout in reversed(LAYOUTS)}
    layout = layouts.get(SAME_TENSORS.get(cell, cell))
    if layout is None:
        known = ", ".join([*layouts, *SAME_TENSORS])
        raise UserError(f"the weights of {cell} have no form in PyTorch, expected one of {known}")
    state, number = {}, cell_class(cell).gates
    try:
        if "embedding" in parameters:
            state["embedding.W"] = parameters["embedding"]["table"]
        for name, tensor in layout.tensors.items():
            gates = np.split(np.asarray(parameters["cell"][tensor.kind]), number, axis=-1)
            array = np.concatenate([gates[gate] for gate in tensor.gates], axis=-1)
            if layout.stacked:
                array = array.T if tensor.kind in "WU" else array[0]
            state[name] = array
        state["linear.weight"] = parameters["output"]["kernel"].T
        state["linear.bias"] = parameters["output"]["bias"]
    except KeyError as error:
        raise UserError(f"not the parameters of a network: {error} is missing") from None
    return check_state_dict(state)[1]


def check_state_dict(state: Mapping[str, Any]) -> tuple[Layout, dict[str, np.ndarray]]:
    """The layout of a state dict, and its arrays, copied.

    Raises `UserError` unless they are all that it should have.
    """
    if not isinstance(state, Mapping):
        raise UserError(f"expected a state dict of weights by name, got a {type(state).__name__}")
    if "rnn_model.W_c" not in state:
        renamed = {f"rnn_model.{kind}_a": f"rnn_model.{kind}_c" for kind in "WUb"}
        state = {renamed.get(name, name): value for name, value in state.items()}
    layout = layout_of(state)
    shapes: dict[str, tuple[int | str, ...]] = {"embedding.W": ("vocabulary", "M")}
    shapes |= {name: tensor.shape for name, tensor in layout.tensors.items()}
    shapes |= {"linear.bias": ("outputs",), "linear.weight": ("outputs", "D")}
    missing = [name for name in shapes if name not in state]
    unknown = [str(name) for name in state if name not in shapes]
    if missing == ["embedding.W"] and not unknown:  # the inputs are vectors
        del shapes["embedding.W"]
    elif missing or unknown:
        parts = [f"without {', '.join(missing)}"] if missing else []
        parts += [f"with {', '.join(unknown[:6])}"] if unknown else []
        raise UserError(f"not the weights of Model_RNN4SeqClass: {' and '.join(parts)}")

    arrays = {name: to_array(name, state[name]) for name in shapes}
    sizes: dict[int | str, int | str] = {1: 1}  # the others each from the first array that has it
    if layout.stacked and arrays[STACKED_U].ndim == 2:
        sizes["D"] = max(min(arrays[STACKED_U].shape), 1)
    for name, shape in shapes.items():
        found = arrays[name].shape
        if len(found) == len(shape):
            for axis, size in zip(shape, found, strict=True):
                sizes.setdefault(axis, max(size, 1))
        if "D" in sizes:
            sizes["gates * D"] = layout.stacked * int(sizes["D"])
        expected = tuple(sizes.get(axis, axis) for axis in shape)
        if found != expected:
            wanted = ", ".join(map(str, expected))
            raise UserError(f"{name} has shape {list(found)}, expected [{wanted}]")
    return layout, arrays


def to_array(name: str, value: Any) -> np.ndarray:
    """A tensor or array as a NumPy array of its own; raises `UserError` if it is no weight."""
    try:
        if hasattr(value, "detach"):  # a PyTorch tensor
            value = value.detach().cpu()
        if isinstance(value, np.ndarray):  # from a machine that has its bytes in another order
            value = value.astype(value.dtype.newbyteorder("="), copy=False)
        kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
        if kind != "float32":  # a conversion would lose bits, or hide that these are no weights
            raise UserError(f"{name} is {kind}, expected float32")
        array = np.array(value.numpy() if hasattr(value, "numpy") else value)
    except (TypeError, RuntimeError):  # sparse, or without values
        raise UserError(f"{name} is not an ordinary tensor") from None
    if not np.isfinite(array).all():
        raise UserError(f"{name} has values that are not finite")
    return array


def load(path: Path | str, cell: str | None = None) -> tuple[ExperimentConfig, Parameters]:
    """Read a file of weights, whose suffix says of which kind it is; as `network_from_state_dict`.

    Raises `UserError` for anything but the weights of one network, or PyTorch that is needed but
    not there.
    """
    path = Path(path)
    check_suffix(path)
    read = read_numpy if path.suffix == NUMPY_SUFFIX else read_torch
    try:
        return network_from_state_dict(read(path), cell)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a file that is something else fails in a dozen ways
        wrote = "torch.save(model.state_dict(), path)"
        if read is read_numpy:
            wrote = "np.savez(path, **weights)"
        kind = type(error).__name__
        raise UserError(f"{path}: not a file that {wrote} wrote ({kind})") from None


def save(cell: str, parameters: Parameters, path: Path | str) -> Path:
    """Write a network as a file of weights, creating its folder; the suffix says of which kind.

    Raises:
        UserError: as `state_dict_of`, and for another suffix, something in the place of the file or
            its folder, or PyTorch that is needed but not there.
    """
    path = Path(path)
    check_suffix(path)
    state = state_dict_of(cell, parameters)
    buffer = io.BytesIO()
    if path.suffix == NUMPY_SUFFIX:
        np.savez(buffer, **state)  # type: ignore[arg-type]
    else:
        torch = import_torch(path)
        torch.save({name: torch.from_numpy(array) for name, array in state.items()}, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path.parent} can't be a folder, a file is in its place") from None
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected a file to write weights to")
    write_atomically(path, buffer.getvalue())
    return path


def check_suffix(path: Path) -> None:
    """Raise `UserError` unless a path ends as a file of weights does."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: not a file of weights, expected {', '.join(SUFFIXES)}")


def read_numpy(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; pickled objects are refused."""
    # NumPy leaves a file that it has opened itself open when it turns out to be no archive.
    with open(path, "rb") as file:
        if zipfile.is_zipfile(file):
            check_size(sum(part.file_size for part in zipfile.ZipFile(file).infolist()))
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)


def check_size(size: int) -> None:
    """Raise `UserError` for more than any network has, before memory is taken for it."""
    if size > MOST_BYTES:
        raise UserError(f"{size:,} bytes, expected weights of at most {MOST_BYTES:,}")


def read_torch(path: Path) -> Any:
    """What a file of PyTorch's holds, tensors and containers of them; code is refused."""
    torch = import_torch(path)
    check_size(path.stat().st_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old formats; what is in the file is checked
        return torch.load(path, map_location="cpu", weights_only=True)


def import_torch(path: Path) -> Any:
    """PyTorch; raises `UserError` if it is not installed."""
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path.suffix} files need PyTorch (pip install torch), {NUMPY_SUFFIX} files do not"
        ) from None
    return torch
