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

A linear layer on its side, as Paddle has it, is known by its shape. Weights do not tell a ReLU
`nn.RNN` from a tanh one, so for that the cell must be named. Written are the textbook's own names,
or those of `nn.GRU`. Files are what `torch.save(model.state_dict(), path)` writes (.pth, .pt,
.pdparams), or an .npz with such names, which needs no PyTorch. Nothing in a file is ever executed.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from srn_jax.config import ExperimentConfig
from srn_jax.errors import UserError
from srn_jax.files import write_atomically

NUMPY_SUFFIX = ".npz"
SUFFIXES = (NUMPY_SUFFIX, ".pth", ".pt", ".pdparams")
MOST_BYTES = 2**31  # no network of `config`'s largest sizes has more
PART = re.compile(
    r"(?:(?P<module>.*)\.)?(?P<kind>W|Wx|U|Wh|b|weight_ih|weight_hh|bias_ih|bias_hh)"
    r"(?:_(?P<gate>[ifoca]|l0))?"
)
KINDS = {"W": "W", "Wx": "W", "weight_ih": "W", "U": "U", "Wh": "U", "weight_hh": "U"}
KINDS |= {"b": "b", "bias_ih": "b", "bias_hh": "c"}
BY_GATE = {"srn": [""], "lstm": ["_i", "_f", "_o", "_c"]}  # the names' ends, in the cell's order
STACKED = {1: ("srn", [0]), 3: ("gru", [0, 1, 2]), 4: ("lstm", [0, 1, 3, 2])}  # by their number
SAME_TENSORS = {"residual-srn": "srn", "irnn": "srn"}  # they do not say what is done with them
NUMPY_LAYOUT = "layout"  # an array in an .npz that says whose linear layers it has
PADDLE = (
    "a file of Paddle's is a pickle, which could run anything, and is not opened: in Paddle, "
    "np.savez('weights.npz', **{k: v.numpy() for k, v in model.state_dict().items()}) writes one "
    "that can be read"
)


def network_from_state_dict(
    state: Mapping[str, Any], cell: str | None = None, layout: str | None = None
) -> tuple[ExperimentConfig, dict[str, Any]]:
    """Cell and sizes, and the parameters as `network_with` takes them, of a state dict.

    Args:
        state: float32 PyTorch tensors or NumPy arrays by name.
        cell: what the weights are of; None takes it from their names, which do not tell a
            `residual-srn` from an `srn`.
        layout: "torch" or "paddle", whose linear layer it is, where its shape does not tell.

    Raises:
        UserError: for a tensor too many or too few, for values that are not such weights, and
            where what they are of cannot be known.
    """
    if not isinstance(state, Mapping):
        raise UserError(f"expected a state dict of weights by name, got a {type(state).__name__}")
    if any(type(value).__module__.startswith("torch") for value in state.values()):
        layout = "torch"
    table, parts, linear = modules_of(state)
    arrays = {name: to_array(name, state[name]) for name in (*table, *parts, *linear)}
    known, own = cell_of(parts, arrays)
    if cell is None and known == "srn" and "c" in own:
        raise UserError(
            "these are the weights of an nn.RNN, which do not say whether it is a tanh or a ReLU "
            "network: give `cell` srn for tanh, irnn for ReLU"
        )
    cell = cell or known
    if SAME_TENSORS.get(cell, cell) != known:
        raise UserError(f"these are the weights of the cell {known}, not of {cell}")
    if "c" in own and known != "gru":
        own["b"] = own["b"] + own.pop("c")
    parameters = {"cell": own, "output": output_of(linear, arrays, len(own["U"]), layout)}
    sizes: dict[str, Any] = {"hidden_size": len(own["U"])}
    for name in table:
        check_shape(name, arrays[name], "vocabulary", len(own["W"]))
        parameters["embedding"] = {"table": arrays[name]}
        sizes["embedding_size"] = len(own["W"])
    return ExperimentConfig(cell=cell, **sizes), {
        module: {name: jnp.asarray(array) for name, array in tensors.items()}
        for module, tensors in parameters.items()
    }


def modules_of(state: Mapping[str, Any]) -> tuple[list[str], dict[str, re.Match[str]], list[str]]:
    """The names of a state dict: the table's if any, the cell's, weight and bias of the linear.

    Raises `UserError` unless each name has its place.
    """
    found = {str(name): PART.fullmatch(str(name)) for name in state}
    cells = [m["module"] for m in found.values() if m and KINDS[m["kind"]] == "U"]
    parts = {name: m for name, m in found.items() if m and m["module"] in cells[:1]}
    table: list[str] = []
    linear: list[str] = []
    strange: list[str] = []
    for name in sorted(found.keys() - parts.keys(), reverse=True):  # weight before bias
        module, _, leaf = name.rpartition(".")
        if leaf in ("weight", "bias") and {f"{module}.weight", f"{module}.bias"} <= found.keys():
            (linear if len(linear) < 2 else strange).append(name)
        else:
            (table if leaf in ("weight", "W") and not table else strange).append(name)
    lack = ["a recurrent cell"] * (not parts) + ["a linear layer"] * (not linear)
    if lack or strange:
        words = [f"without {' or '.join(lack)}"] if lack else []
        words += [f"with {', '.join(sorted(strange)[:6])}"] if strange else []
        raise UserError(f"not the weights of one cell and a linear layer: {', '.join(words)}")
    return table, parts, linear


def cell_of(
    parts: Mapping[str, re.Match[str]], arrays: Mapping[str, np.ndarray]
) -> tuple[str, dict[str, np.ndarray]]:
    """The cell that tensors are of, and its W, U, b and of PyTorch's own c; raises `UserError`."""
    names: dict[str, str] = {}  # such as U_f or, of all gates together, U_l0
    for name, match in parts.items():
        end = {None: "", "a": "_c"}.get(match["gate"], f"_{match['gate']}")
        if (other := names.setdefault(KINDS[match["kind"]] + end, name)) != name:
            raise UserError(f"{other} and {name} are the same, leave one out")
    stacked = "U_l0" in names
    first = arrays[next(name for key, name in names.items() if key[0] == "U")]
    size = min(first.shape, default=0) or 1
    number = len(first) // size if stacked else 1  # of gates in a tensor
    cell, order = STACKED.get(number, ("", [])) if stacked else ("srn", [0])
    if not stacked and "U" not in names:
        cell, order = "lstm", [0, 1, 2, 3]
    if not cell or first.ndim != 2:
        raise UserError(f"recurrent weights have shape {list(first.shape)}, which no cell has")
    ends = ["_l0"] if stacked else BY_GATE[cell]
    wanted = {kind + end for kind in ("WUbc" if stacked else "WUb") for end in ends}
    if names.keys() != wanted:
        strange = ", ".join(sorted(names.keys() ^ wanted))
        raise UserError(f"{', '.join(names.values())} are no cell: too many or too few {strange}")
    own: dict[str, np.ndarray] = {}
    first = check_shape(names["W" + ends[0]], arrays[names["W" + ends[0]]], "any", "any")
    columns = first.shape[1 if stacked else 0]
    for kind in sorted({key[0] for key in wanted}):
        blocks = []
        for end in ends:
            name, array = names[kind + end], arrays[names[kind + end]]
            rows = {"W": columns, "U": size}.get(kind)
            shape: tuple[int | str, ...] = (number * size,) if rows is None else (rows, size)
            if stacked:
                shape = shape if rows is None else (number * size, rows)
            elif rows is None and array.ndim == 2:
                shape = 1, size
            array = np.atleast_2d(check_shape(name, array, *shape))
            blocks += np.split(array.T if rows and stacked else array, number, axis=1)
        own[kind] = np.concatenate([blocks[place] for place in order], axis=1)
    return cell, own


def output_of(
    names: list[str], arrays: Mapping[str, np.ndarray], size: int, layout: str | None
) -> dict[str, np.ndarray]:
    """Kernel `[D, outputs]` and bias of the linear layer, either way round; raises `UserError`."""
    kernel, bias = (arrays[name] for name in names)
    outputs = len(check_shape(names[1], bias, "outputs"))
    if layout is None and size == outputs:
        raise UserError(
            f"{names[0]} is square, so its shape does not say whether its rows are outputs (as "
            f"PyTorch's) or inputs (as Paddle's): add {NUMPY_LAYOUT}='torch' or "
            f"{NUMPY_LAYOUT}='paddle' to np.savez"
        )
    if layout == "paddle" or (layout is None and kernel.shape == (size, outputs)):
        return {"kernel": check_shape(names[0], kernel, size, outputs), "bias": bias}
    return {"kernel": check_shape(names[0], kernel, outputs, size).T, "bias": bias}


def check_shape(name: str, array: np.ndarray, *wanted: int | str) -> np.ndarray:
    """The array; raises `UserError` unless its shape is as wanted, with words for any size."""
    shape = array.shape
    pairs = zip(wanted, shape, strict=False)
    fit = [found == size if isinstance(size, int) else found > 0 for size, found in pairs]
    if not all(fit) or len(shape) != len(wanted):
        expected = ", ".join(map(str, wanted))
        raise UserError(f"{name} has shape {list(shape)}, expected [{expected}]")
    return array


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


def state_dict_of(cell: str, parameters: dict[str, Any]) -> dict[str, np.ndarray]:
    """The state dict of a network with these parameters, by the names that PyTorch has for them.

    Raises `UserError` for a cell that has none, or parameters that are not those of one network.
    """
    known = SAME_TENSORS.get(cell, cell)
    if known not in (*BY_GATE, "gru"):
        names = ", ".join([*BY_GATE, "gru", *SAME_TENSORS])
        raise UserError(f"the weights of {cell} have no form in PyTorch, expected one of {names}")
    state: dict[str, Any] = {}
    try:
        own = {kind: np.asarray(array) for kind, array in parameters["cell"].items()}
        if "embedding" in parameters:
            state["embedding.W"] = parameters["embedding"]["table"]
        for kind in "WUb":
            ends = BY_GATE.get(known, [])
            blocks = np.split(own[kind], max(len(ends), 1), axis=-1)
            for end, block in zip(ends, blocks, strict=False):
                state[f"rnn_model.{kind}{end}"] = block
        if known == "gru":
            for side, weight, bias in (("ih", "W", "b"), ("hh", "U", "c")):
                state[f"rnn_model.weight_{side}_l0"] = own[weight].T
                state[f"rnn_model.bias_{side}_l0"] = own[bias][0]
        state["linear.weight"] = parameters["output"]["kernel"].T
        state["linear.bias"] = parameters["output"]["bias"]
    except KeyError as error:
        raise UserError(f"not the parameters of a network: {error} is missing") from None
    state = {name: np.array(array) for name, array in state.items()}
    network_from_state_dict(state, cell, "torch")
    return state


def load(path: Path | str, cell: str | None = None) -> tuple[ExperimentConfig, dict[str, Any]]:
    """Read a file of weights, whose suffix says of which kind it is; as `network_from_state_dict`.

    Raises `UserError` for anything but the weights of one network, or PyTorch that is needed but
    not there.
    """
    path = Path(path)
    check_suffix(path)
    numpy = path.suffix == NUMPY_SUFFIX
    try:
        state = read_numpy(path) if numpy else read_torch(path)
        layout = str(state.pop(NUMPY_LAYOUT)) if numpy and NUMPY_LAYOUT in state else None
        if layout not in (None, "torch", "paddle"):
            raise UserError(f"{NUMPY_LAYOUT} is {layout!r}, expected torch or paddle")
        return network_from_state_dict(state, cell, layout)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a file that is something else fails in a dozen ways
        wrote = "np.savez(path, **weights)" if numpy else "torch.save(model.state_dict(), path)"
        kind = type(error).__name__
        raise UserError(f"{path}: not a file that {wrote} wrote ({kind})") from None


def save(cell: str, parameters: dict[str, Any], path: Path | str) -> Path:
    """Write a network as a file of weights, creating its folder; the suffix says of which kind.

    Raises:
        UserError: as `state_dict_of`, and for another suffix, something in the place of the file or
            its folder, or PyTorch that is needed but not there.
    """
    path = Path(path)
    check_suffix(path)
    state: dict[str, Any] = state_dict_of(cell, parameters)
    buffer = io.BytesIO()
    if path.suffix == NUMPY_SUFFIX:
        state[NUMPY_LAYOUT] = np.array("torch")
        np.savez(buffer, **state)
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


def read_numpy(path: Path) -> dict[str, Any]:
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
    if path.suffix == ".pdparams" and path.is_file() and not zipfile.is_zipfile(path):
        raise UserError(PADDLE)
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
