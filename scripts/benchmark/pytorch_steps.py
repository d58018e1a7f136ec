"""The textbook's program in PyTorch, as the benchmark runs it; imports no JAX.

The program is the one in `tests/`, which this project is held to step by step.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from srn_jax.interop.textbook_files import digit_sum

PROGRAM = Path(__file__).parents[2] / "tests" / "pytorch_program.py"


def pytorch_program() -> Any:
    """The module `tests/pytorch_program.py`."""
    spec = importlib.util.spec_from_file_location("pytorch_program", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytorch_step(
    cell: str, contender: str, length: int, platform: str, size: int = 32
) -> Callable[[], object]:
    """A function that takes one training step of the PyTorch program, its loss read as a float."""
    import torch

    program = pytorch_program()
    device = "cuda" if platform == "gpu" else "cpu"
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    by_hand, built_in = {
        "srn": (program.SRN, program.BuiltInRNN),
        "lstm": (program.LSTM, program.BuiltInLSTM),
        "gru": (program.GRU, program.BuiltInGRU),
    }[cell]
    rnn = by_hand if contender == "pytorch-loop" else built_in
    model = program.Model_RNN4SeqClass(size, rnn).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sequences = digit_sum(length, 3, np.random.RandomState(0))
    digits = torch.tensor(sequences.digits, dtype=torch.long, device=device)
    labels = torch.tensor(sequences.labels, dtype=torch.long, device=device)
    starts = iter(range(10**9))

    def step() -> float:
        start = next(starts) * 8 % len(digits)
        batch = slice(start, start + 8)
        loss = torch.nn.functional.cross_entropy(model(digits[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    return step
