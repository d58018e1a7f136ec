"""Weights that are exchanged with PyTorch's programs: read, tested and written."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from srn_jax.config import DataFolder, SweepConfig
from srn_jax.interop import pytorch
from srn_jax.interop.textbook_files import lengths_in
from srn_jax.run import Run
from srn_jax.runs.networks import Networks

LARGEST_BATCH = 1_000_000  # that a configuration can have


@dataclass(frozen=True)
class Weights:
    """The parameters of one network, and the settings that it has."""

    config: SweepConfig
    parameters: Any

    def evaluate(self, data: str | Path) -> pd.DataFrame:
        """Test accuracy and loss, the mean over examples, on `data/<length>/test.txt`."""
        lengths = lengths_in(Path(data))
        # A file has no batches: with all examples in one, the loss is the mean over them.
        alone = replace(
            self.config.experiment, batch_size=LARGEST_BATCH, loss_reduction="mean", epochs=1
        )
        config = replace(self.config, lengths=lengths, seeds=(0,), experiment=alone)
        copies = jax.tree.map(lambda array: np.stack([array] * len(lengths)), self.parameters)
        networks = Networks(config, config.experiments, copies, np.ones(len(lengths), bool))
        scores = networks.scores(Path(data))
        columns = {"test_accuracy": scores.accuracy, "test_loss": scores.loss}
        return pd.DataFrame({"length": lengths, **columns})

    def write(self, path: str | Path) -> Path:
        """Write them to a file: .pth or .pt with PyTorch, .npz without it."""
        return pytorch.save(self.config.experiment.cell, self.parameters, path)


def read_weights(path: str | Path, cell: str | None = None) -> Weights:
    """Weights out of a file; `cell` says what of, where its names do not.

    Raises:
        UserError: for a file that is none of weights.
    """
    experiment, parameters = pytorch.load(path, cell)
    vocabulary = len(parameters.get("embedding", {"table": ()})["table"])
    data = DataFolder(str(path), "", vocabulary, len(parameters["output"]["bias"]))
    return Weights(SweepConfig(experiment=experiment, data=data), parameters)


def weights_of(
    run: Run, length: int, seed: int, variant: str | None = None, which: str = "best"
) -> Weights:
    """The weights of a network of a run; raises `UserError` where it has none."""
    networks = run.networks(variant, [length], [seed], which)
    networks.network(0)  # or it says that there is none
    return Weights(networks.config, jax.tree.map(lambda array: array[0], networks.parameters))
