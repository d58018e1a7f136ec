"""Write the textbook's DigitSum files, byte for byte: DIR/<length>/{train,dev,test}.txt."""

from pathlib import Path

from srn_jax.checks import check_list, whole
from srn_jax.cli import options as cli
from srn_jax.config import TEXTBOOK_LENGTHS
from srn_jax.interop.textbook_files import (
    SPLITS,
    TEXTBOOK_MULTIPLICITIES,
    check_same,
    textbook_splits,
    write_splits,
)


def main(arguments: list[str]) -> None:
    parser = cli.Parser(__doc__)
    number = cli.number_of(int)
    parser.add_argument(
        "--out", required=True, type=cli.path, metavar="DIR", help="folder to write to"
    )
    parser.add_argument(
        "--lengths",
        nargs="+",
        type=number,
        metavar="L",
        default=list(TEXTBOOK_LENGTHS),
        help="sequence lengths [5 10 15 20 25 30 35]",
    )
    parser.add_argument(
        "--multiplicities",
        nargs=3,
        type=number,
        metavar="K",
        default=list(TEXTBOOK_MULTIPLICITIES),
        help="examples for each pair of digits in train, dev and test [3 1 1]",
    )
    parser.add_argument("--seed", type=number, metavar="S", default=0, help="of the stream [0]")
    parser.add_argument("--overwrite", action="store_true", help="lose other data in these files")
    options = parser.parse_args(arguments)
    check_list("--lengths", tuple(options.lengths), whole(3, 100_000))
    for multiplicity in options.multiplicities:
        whole(1, 10_000)("--multiplicities", multiplicity)
    whole(0, 2**32 - 1)("--seed", options.seed)

    drawn = textbook_splits(tuple(options.lengths), tuple(options.multiplicities), options.seed)
    sets = list(drawn)
    if not options.overwrite:
        for length, splits in sets:
            check_same(Path(options.out), length, splits)
    for length, splits in sets:
        write_splits(Path(options.out), length, splits)
        sizes = ", ".join(f"{len(getattr(splits, name))} {name}" for name in SPLITS)
        print(f"{Path(options.out) / str(length)}: {sizes}; {splits.overlap} test also in train")


if __name__ == "__main__":
    cli.run_script(main)
