"""Exchange weights with the textbook's PyTorch program, and test those that come from it.

python scripts/convert.py RUN --length 10 --seed 0 --to srn.pth     # or .npz, without PyTorch
python scripts/convert.py --from srn.pth --evaluate data            # data/<length>/test.txt

The networks are the textbook's (SRN, LSTM) or have PyTorch's nn.RNN, nn.LSTM or nn.GRU inside.
"""

import dataclasses
from pathlib import Path

from srn_jax.cli import options as cli
from srn_jax.config import CELLS, DataFolder, SweepConfig
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import lengths_in


def main(arguments: list[str]) -> None:
    parser = cli.Parser(__doc__)
    number = cli.number_of(int)
    parser.add_argument(
        "run", nargs="?", type=cli.path, metavar="RUN", help="take a network of this run folder"
    )
    parser.add_argument("--length", type=number, metavar="L", help="length it was trained on")
    parser.add_argument("--seed", type=number, metavar="S", help="its seed")
    parser.add_argument("--which", choices=("best", "last"), help="its parameters [best]")
    parser.add_argument(
        "--from",
        dest="source",
        type=cli.path,
        metavar="FILE",
        help="take weights: .pth, .pt, .pdparams or .npz",
    )
    parser.add_argument(
        "--to", type=cli.path, metavar="FILE", help="write the weights to a file of such a kind"
    )
    parser.add_argument(
        "--cell", choices=CELLS, help="what FILE has the weights of [as its names say]"
    )
    parser.add_argument("--overwrite", action="store_true", help="lose a file that is there")
    parser.add_argument(
        "--evaluate", type=cli.path, metavar="DIR", help="test them on DIR/<length>/test.txt"
    )
    cli.add_options(parser, "platform")
    options = parser.parse_args(arguments)
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
    which = options.which or "best"
    lengths = () if options.evaluate is None else lengths_in(Path(options.evaluate))
    cli.start_platform(options)
    from srn_jax.interop import pytorch as pytorch_weights

    if options.run is None:
        experiment, parameters = pytorch_weights.load(options.source, options.cell)
        vocabulary = len(parameters.get("embedding", {"table": ()})["table"])
        data = DataFolder(options.source, "", vocabulary, len(parameters["output"]["bias"]))
        config = SweepConfig(experiment=experiment, data=data)
    else:
        config, parameters = network_of(options.run, *from_run[:2], which)
    if lengths:
        print_accuracies(config, parameters, Path(options.evaluate), lengths)
    if options.to is not None:
        print("written:", pytorch_weights.save(config.experiment.cell, parameters, options.to))


def network_of(run: str, length: int, seed: int, which: str) -> tuple[SweepConfig, dict]:
    import jax

    from srn_jax.runs.restore import restore

    networks = restore(Path(run), [length], [seed], which)
    return networks.config, jax.tree.map(lambda array: array[0], networks.parameters)


def print_accuracies(
    config: SweepConfig, parameters: dict, folder: Path, lengths: tuple[int, ...]
) -> None:
    import jax
    import numpy as np

    from srn_jax.analysis import report
    from srn_jax.runs.restore import Networks, accuracies

    rows = [["length", "test accuracy", "test loss"]]
    for length in lengths:
        one = dataclasses.replace(config, lengths=(length,), seeds=(0,))
        arrays = jax.tree.map(lambda array: array[None], parameters)
        loss, accuracy = accuracies(Networks(one, ((length, 0),), arrays, np.array([True])), folder)
        rows.append([str(length), str(accuracy[0]), f"{loss[0]:.4f}"])
    print(report.plain_table(rows))


if __name__ == "__main__":
    cli.run_script(main)
