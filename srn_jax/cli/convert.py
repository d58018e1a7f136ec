"""The command `convert`: weights out of a run or a file, to a file or to a test."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from srn_jax.cli import options as cli
from srn_jax.config import CELLS, DataFolder, SweepConfig
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import lengths_in

LARGEST_BATCH = 1_000_000  # that a configuration can have


def convert(arguments: list[str]) -> None:
    """Exchange weights with the textbook's PyTorch program, and test them.

    python scripts/convert.py RUN --length 10 --seed 0 --to srn.pth     # or .npz, without PyTorch
    python scripts/convert.py --from srn.pth --evaluate data            # data/<length>/test.txt

    The networks are the textbook's (SRN, LSTM) or have PyTorch's nn.RNN, nn.LSTM or nn.GRU inside.
    """
    parser = cli.Parser(convert.__doc__)
    add = parser.add_argument
    add("run", nargs="?", type=cli.path, metavar="RUN", help="take a network of this run folder")
    add("--length", type=cli.WHOLE, metavar="L", help="length it was trained on")
    add("--seed", **cli.SEED, help="its seed")
    add("--which", choices=("best", "last"), help="its parameters [best]")
    kinds = "take weights: .pth, .pt, .pdparams or .npz"
    add("--from", dest="source", type=cli.path, metavar="FILE", help=kinds)
    add("--to", type=cli.path, metavar="FILE", help="write the weights to a file of such a kind")
    add("--cell", choices=CELLS, help="what FILE has the weights of [as its names say]")
    add("--overwrite", action="store_true", help="lose a file that is there")
    add("--evaluate", type=cli.path, metavar="DIR", help="test them on DIR/<length>/test.txt")
    cli.add_options(parser, "platform")
    options = parser.parse_args(arguments)
    check(options)
    lengths = () if options.evaluate is None else lengths_in(Path(options.evaluate))
    cli.start_platform(options)
    import jax
    import numpy as np

    from srn_jax.cli.answers import print_accuracies
    from srn_jax.interop import pytorch as pytorch_weights
    from srn_jax.runs.restore import Networks, check_trained, restore

    config: SweepConfig
    parameters: Any
    if options.run is None:
        experiment, parameters = pytorch_weights.load(options.source, options.cell)
        vocabulary = len(parameters.get("embedding", {"table": ()})["table"])
        data = DataFolder(options.source, "", vocabulary, len(parameters["output"]["bias"]))
        config = SweepConfig(experiment=experiment, data=data)
    else:
        which = options.which or "best"
        networks = restore(Path(options.run), [options.length], [options.seed], which)
        check_trained(networks, 0, which)
        config = networks.config
        parameters = jax.tree.map(lambda array: array[0], networks.parameters)
    if lengths:
        # A file has no batches: with all examples in one, the loss is the mean over them.
        alone = dataclasses.replace(
            config.experiment, batch_size=LARGEST_BATCH, loss_reduction="mean"
        )
        config = dataclasses.replace(config, lengths=lengths, seeds=(0,), experiment=alone)
        copies = jax.tree.map(lambda array: np.stack([array] * len(lengths)), parameters)
        trained = np.ones(len(lengths), bool)
        networks = Networks(config, config.experiments, copies, trained)
        print_accuracies(networks, options.evaluate, by_seed=False)
        print("test loss: the mean over examples")
    if options.to is not None:
        print("written:", pytorch_weights.save(config.experiment.cell, parameters, options.to))


def check(options: argparse.Namespace) -> None:
    """Raise `UserError` for options that miss or exclude each other."""
    from_run = (options.length, options.seed, options.which)
    if (options.run is None) == (options.source is None):
        raise UserError("weights come from a RUN or --from a FILE, give one of them")
    if options.run is not None and None in from_run[:2]:
        raise UserError("RUN has many networks, say which: --length and --seed")
    if options.source is not None and from_run != (None, None, None):
        raise UserError("--length, --seed and --which are for a RUN, leave them out with --from")
    if options.run is not None and options.cell is not None:
        raise UserError("a RUN knows its cell, leave out --cell")
    if options.to is None and options.evaluate is None:
        raise UserError("nothing to do, give --to FILE or --evaluate DIR")
    if options.to is not None and Path(options.to).exists() and not options.overwrite:
        raise UserError(f"{options.to} is there already, choose another name or --overwrite it")
