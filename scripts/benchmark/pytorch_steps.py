"""The textbook's program in PyTorch, as the benchmark runs it; imports no JAX.

The program is the one in `tests/`, which this project is held to step by step.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from srn_jax.config import ExperimentConfig
from srn_jax.interop.textbook_files import digit_sum

PROGRAM = Path(__file__).parents[2] / "tests" / "pytorch_program.py"


def pytorch_program() -> Any:
    """The module `tests/pytorch_program.py`."""
    spec = importlib.util.spec_from_file_location("pytorch_program", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytorch_cells(cell: str) -> tuple[Any, Any]:
    """The recurrent layer of a cell, as the textbook writes it by hand and as PyTorch has it."""
    program = pytorch_program()
    return {
        "srn": (program.SRN, program.BuiltInRNN),
        "lstm": (program.LSTM, program.BuiltInLSTM),
        "gru": (program.GRU, program.BuiltInGRU),
    }[cell]


def pytorch_step(
    config: ExperimentConfig, contender: str, length: int, platform: str
) -> Callable[[], object]:
    """A function that takes one training step of the PyTorch program, its loss read as a float."""
    import torch

    program = pytorch_program()
    device = "cuda" if platform == "gpu" else "cpu"
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    by_hand, built_in = pytorch_cells(config.cell)
    rnn = {"pytorch-loop": by_hand, "pytorch-rnn": built_in}[contender]
    model = program.Model_RNN4SeqClass(config.hidden_size, rnn).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    sequences = digit_sum(length, config.multiplicity, np.random.RandomState(0))
    digits = torch.tensor(sequences.digits, dtype=torch.long, device=device)
    labels = torch.tensor(sequences.labels, dtype=torch.long, device=device)
    starts = iter(range(10**9))

    def step() -> float:
        start = next(starts) * config.batch_size % len(digits)
        batch = slice(start, start + config.batch_size)
        loss = torch.nn.functional.cross_entropy(model(digits[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    return step


def pytorch_synchronize(platform: str) -> None:
    """Wait for what PyTorch has still to do on a GPU."""
    if platform == "gpu":
        import torch

        torch.cuda.synchronize()
