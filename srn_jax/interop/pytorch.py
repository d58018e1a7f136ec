"""Weights of the textbook's PyTorch program as a model here, and back, to the bit.

That program's network is `Model_RNN4SeqClass`. Its state dict, and what it is here:

    embedding.W     [10, M]    embedding table
    rnn_model.W     [M, D]     srn W
    rnn_model.U     [D, D]     srn U
    rnn_model.b     [1, D]     srn b
    linear.weight   [19, D]    output kernel, transposed
    linear.bias     [19]       output bias

If its `rnn_model` is PyTorch's own `nn.RNN` (one layer, tanh), it has instead of W, U and b:

    rnn_model.weight_ih_l0                          [D, M]    srn W, transposed
    rnn_model.weight_hh_l0                          [D, D]    srn U, transposed
    rnn_model.bias_ih_l0, rnn_model.bias_hh_l0      [D]       their sum is srn b

A file is what `torch.save(model.state_dict(), path)` writes (.pth, .pt, .pdparams), or an .npz with
the same names, which needs no PyTorch. Nothing in a file is ever executed.
"""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from srn_jax.analysis.results import write_atomically
from srn_jax.config import NUM_CLASSES, NUM_DIGITS
from srn_jax.errors import UserError
from srn_jax.training.model import Parameters

NUMPY_SUFFIX = ".npz"
TORCH_SUFFIXES = (".pth", ".pt", ".pdparams")
SUFFIXES = (NUMPY_SUFFIX, *TORCH_SUFFIXES)

Shape = tuple[int | str, ...]
AROUND: dict[str, Shape] = {
    "embedding.W": (NUM_DIGITS, "M"),
    "linear.weight": (NUM_CLASSES, "D"),
    "linear.bias": (NUM_CLASSES,),
}
TEXTBOOK_SRN: dict[str, Shape] = AROUND | {
    "rnn_model.W": ("M", "D"),
    "rnn_model.U": ("D", "D"),
    "rnn_model.b": (1, "D"),
}
TORCH_RNN: dict[str, Shape] = AROUND | {
    "rnn_model.weight_ih_l0": ("D", "M"),
    "rnn_model.weight_hh_l0": ("D", "D"),
    "rnn_model.bias_ih_l0": ("D",),
    "rnn_model.bias_hh_l0": ("D",),
}


def parameters_from_state_dict(state: Mapping[str, Any]) -> Parameters:
    """The parameters, as `model.classifier_with` takes them, of a state dict of either form.

    Args:
        state: float32 PyTorch tensors or NumPy arrays by name.

    Raises:
        UserError: for a name that is missing or unknown, or values that are not such weights.
    """
    arrays = check_state_dict(state)
    if "rnn_model.U" in arrays:
        srn = {name: arrays[f"rnn_model.{name}"] for name in ("W", "U", "b")}
    else:
        bias = arrays["rnn_model.bias_ih_l0"] + arrays["rnn_model.bias_hh_l0"]
        srn = {
            "W": arrays["rnn_model.weight_ih_l0"].T,
            "U": arrays["rnn_model.weight_hh_l0"].T,
            "b": bias[None],
        }
    output = {"kernel": arrays["linear.weight"].T, "bias": arrays["linear.bias"]}
    parameters = {"embedding": {"table": arrays["embedding.W"]}, "srn": srn, "output": output}
    return {
        module: {name: jnp.asarray(array) for name, array in own.items()}
        for module, own in parameters.items()
    }


def state_dict_from_parameters(parameters: Parameters) -> dict[str, np.ndarray]:
    """The state dict, of the form with W, U and b, that has these parameters; NumPy arrays.

    Raises:
        UserError: for parameters that are not those of one classifier.
    """
    try:
        srn, output = parameters["srn"], parameters["output"]
        state = {
            "embedding.W": parameters["embedding"]["table"],
            **{f"rnn_model.{name}": srn[name] for name in ("W", "U", "b")},
            "linear.weight": output["kernel"].T,
            "linear.bias": output["bias"],
        }
    except KeyError as error:
        raise UserError(f"not the parameters of a classifier: {error} is missing") from None
    return check_state_dict(state)


def check_state_dict(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a state dict, copied; raises `UserError` unless they are all it should have."""
    if not isinstance(state, Mapping):
        raise UserError(f"expected a state dict of weights by name, got a {type(state).__name__}")
    framework = any(name in TORCH_RNN and name not in AROUND for name in state)
    layout = TORCH_RNN if framework else TEXTBOOK_SRN
    missing = [name for name in layout if name not in state]
    unknown = [str(name) for name in state if name not in layout]
    if missing or unknown:
        parts = [f"without {', '.join(missing)}"] if missing else []
        parts += [f"with {', '.join(unknown[:6])}"] if unknown else []
        raise UserError(f"not the weights of Model_RNN4SeqClass: {' and '.join(parts)}")

    arrays = {name: to_array(name, state[name]) for name in layout}
    sizes: dict[int | str, int] = {}  # M and D, each from the first array that has it
    for name, shape in layout.items():
        found = arrays[name].shape
        if len(found) == len(shape):
            for axis, size in zip(shape, found, strict=True):
                sizes.setdefault(axis, max(size, 1))
        expected = tuple(sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in shape)
        if found != expected:
            wanted = ", ".join(map(str, expected))
            raise UserError(f"{name} has shape {list(found)}, expected [{wanted}]")
    return arrays


def to_array(name: str, value: Any) -> np.ndarray:
    """A tensor or array as a NumPy array of its own; raises `UserError` if it is no weight."""
    try:
        if hasattr(value, "detach"):  # a PyTorch tensor
            value = value.detach().cpu()
        kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
        if kind != "float32":  # a conversion would lose bits, or hide that these are no weights
            raise UserError(f"{name} is {kind}, expected float32")
        array = np.array(value.numpy() if hasattr(value, "numpy") else value)
    except (TypeError, RuntimeError):  # sparse, or without values
        raise UserError(f"{name} is not an ordinary tensor") from None
    if not np.isfinite(array).all():
        raise UserError(f"{name} has values that are not finite")
    return array


def load(path: Path | str) -> Parameters:
    """Read the parameters in a file of weights; the suffix says of which kind it is.

    Raises:
        UserError: for anything but the weights of one network, or PyTorch that is needed but not
            there.
    """
    path = Path(path)
    check_suffix(path)
    read = read_numpy if path.suffix == NUMPY_SUFFIX else read_torch
    try:
        return parameters_from_state_dict(read(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a file that is something else fails in a dozen ways
        wrote = (
            "np.savez(path, **weights)"
            if read is read_numpy
            else ("torch.save(model.state_dict(), path)")
        )
        kind = type(error).__name__
        raise UserError(f"{path}: not a file that {wrote} wrote ({kind})") from None


def save(parameters: Parameters, path: Path | str) -> Path:
    """Write parameters as a file of weights, creating its folder; the suffix says of which kind.

    Raises:
        UserError: for another suffix, something in the place of the file or its folder, or PyTorch
            that is needed but not there.
    """
    path = Path(path)
    check_suffix(path)
    state = state_dict_from_parameters(parameters)
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
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        return dict(archive)


def read_torch(path: Path) -> Any:
    """What a file of PyTorch's holds, tensors and containers of them; code is refused."""
    torch = import_torch(path)
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
