"""The commands: what `scripts/NAME.py` does, and `srn-jax NAME` where there is no clone.

Each is a function of the command line's arguments, which are checked before JAX starts.
"""

import shlex
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

from srn_jax.checks import between, check_list, whole
from srn_jax.cli import options as cli
from srn_jax.cli.devices import programs_folder
from srn_jax.config import TEXTBOOK_LENGTHS
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import (
    SPLITS,
    TEXTBOOK_MULTIPLICITIES,
    check_same,
    textbook_splits,
    write_splits,
)
from srn_jax.runs import folder as run_folder


def sweep(arguments: list[str]) -> None:
    """Train all lengths and many seeds at once, and draw the memory curve."""
    parser = cli.Parser(sweep.__doc__)
    cli.add_options(parser, "platform")
    cli.add_sweep_options(parser)
    cli.add_options(parser, "run", "several processes")
    options = parser.parse_args(arguments)
    cli.check_run_options(options)
    from srn_jax.analysis.drawing import start_helpers
    from srn_jax.runs.settings import default_folder

    together = cli.distributed_of(options) is not None
    if together:  # what is refused from here on ends all processes
        cli.start_platform(options)
    finished = None  # a run that is given more seeds, in another folder
    if options.resume is not None and options.seeds is None:
        folder = Path(options.resume)
        configs = run_folder.read_configs(folder)
    elif options.resume is not None:
        finished = Path(options.resume)
        configs = run_folder.with_seeds(finished, options.seeds)
        folder = Path(options.out or finished.absolute().parent / default_folder(configs).name)
    else:
        configs = cli.sweeps_of(options)
        folder = Path(options.out) if options.out else default_folder(configs)
    run_folder.check_folders(folder, configs, options.overwrite)
    with start_helpers(0 if together and options.process else 2) as helpers:
        if not together:
            cli.start_platform(options)
        from srn_jax.cli.study import begin_with_more_seeds, run_study
        from srn_jax.runs.loop import RunOptions
        from srn_jax.runs.signals import Interrupted

        called = cli.called("sweep")
        command = shlex.join([*called, *arguments])
        how = RunOptions(
            options.overwrite,
            options.checkpoint_every,
            options.chunk,
            options.kernel,
            command,
            programs_folder(),
        )
        try:
            if finished is not None:
                begin_with_more_seeds(finished, configs, folder, how)
            run_study(configs, folder, how, helpers, bool(options.textbook))
        except Interrupted as stop:
            resume = ["--resume", str(folder)]
            resume += ["--platform", options.platform] if options.platform != "auto" else []
            again = resume if finished is None else arguments
            print(f"stopped; to go on: {shlex.join([*called, *again])}")
            sys.exit(128 + stop.signal)


def evaluate(arguments: list[str]) -> None:
    """Restore the networks of a run from its checkpoint and test them.

    python scripts/evaluate.py RUN                          # the test accuracies of results.csv
    python scripts/evaluate.py RUN --lengths 5 --predict "3 4 0 0 0"
    """
    parser = cli.Parser(evaluate.__doc__)
    parser.add_argument("run", type=cli.path, metavar="RUN", help="run folder, finished or not")
    cli.add_options(parser, "networks of a run")
    data = "test on DIR/<length>/test.txt [the run's own data]"
    predict = 'what the networks answer to a sequence like "3 4 0"'
    parser.add_argument("--data", type=cli.path, metavar="DIR", help=data)
    parser.add_argument("--predict", metavar="TOKENS", help=predict)
    cli.add_options(parser, "platform")
    options = parser.parse_args(arguments)
    if options.predict is not None and options.data is not None:
        raise UserError("--predict needs no --data, give one of them")
    run = Path(options.run)
    seeds = cli.seeds_chosen(options)
    cli.start_platform(options)
    from srn_jax.cli.answers import print_accuracies, print_predictions
    from srn_jax.runs.restore import restore

    networks = restore(run, options.lengths, seeds, options.which)
    if options.predict is not None:
        print_predictions(networks, options.predict)
    else:
        print_accuracies(networks, options.data)


def plot(arguments: list[str]) -> None:
    """Draw the figures of a run again, or of several side by side.

    A folder of variants stands for all of its runs. A run that is still going on is drawn as it
    stood at its newest checkpoint.
    """
    parser = cli.Parser(plot.__doc__)
    parser.add_argument("runs", nargs="+", type=cli.path, metavar="RUN", help="run folders")
    out = "where a comparison goes [beside the first run]"
    parser.add_argument("--out", type=cli.path, metavar="DIR", help=out)
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="names for the runs")
    parser.add_argument("--baseline", metavar="NAME", help="the run to compare with [the first]")
    cli.add_options(parser, "look of the figures", "platform")
    parser.set_defaults(platform="cpu")  # the accelerator may be busy with the run itself
    options = parser.parse_args(arguments)
    given = [Path(folder) for folder in options.runs]
    folders = [run for folder in given for run in run_folder.runs_in(folder)]
    if len(folders) == 1 and (options.out or options.baseline or options.labels) is not None:
        raise UserError("--out, --labels and --baseline are for several runs, and this is one")
    from srn_jax.analysis.drawing import start_helpers
    from srn_jax.cli import publish

    look = cli.look_of(options)
    names = publish.names_of(folders, options.labels)
    start = cache(partial(cli.start_platform, options))
    loaded = (publish.load_run(folder, start) for folder in folders)
    runs = dict(zip(names, loaded, strict=True))
    if len(folders) == 1:
        with start_helpers(1) as helpers:
            paths = publish.publish(folders[0], runs[names[0]], look, helpers)
        print("written:", *paths, sep="\n  ")
        return
    beside = given[0] if len(given) == 1 else given[0].parent / "comparison"
    publish.publish_comparison(Path(options.out or beside), runs, options.baseline, look)


def explain(arguments: list[str]) -> None:
    """Explain why the networks of a run forget, into RUN/explanation/.

    Of a folder of variants, each of them, into FOLDER/explanation/NAME/, and all in one figure.

    python scripts/explain.py RUN                               # a page, figures and tables
    python scripts/explain.py RUN --gates "6 7 0 0 1 0 0 0 0 0"  # and the gates along a sequence
    """
    parser = cli.Parser(explain.__doc__)
    add = parser.add_argument
    solver = "test accuracy above which a network is a solver [0.5]"
    gates = 'draw the gates along a sequence like "3 4 0"'
    add("run", type=cli.path, metavar="RUN", help="run folder, or one of variants")
    add("--lengths", "--length", **cli.LENGTHS, help="only these [all]")
    add("--threshold", type=cli.NUMBER, default=0.5, metavar="X", help=solver)
    add("--gates", metavar="TOKENS", help=gates)
    add("--seed", **cli.SEED, help="whose gates [the first]")
    add("--out", type=cli.path, metavar="DIR", help="folder [RUN/explanation]")
    cli.add_options(parser, "look of the figures", "platform")
    options = parser.parse_args(arguments)
    between(0, 1)("--threshold", options.threshold)
    given = Path(options.run)
    run_folder.runs_in(given)  # what is no run should be said before JAX starts
    look = cli.look_of(options)
    cli.start_platform(options)
    from srn_jax.cli.explain import explain_all

    print("written:", *explain_all(given, options, look), sep="\n  ")


def generate_data(arguments: list[str]) -> None:
    """Write the textbook's data files, byte for byte.

    They are DIR/<length>/{train,dev,test}.txt.
    """
    parser = cli.Parser(generate_data.__doc__)
    add = parser.add_argument
    lengths = "sequence lengths [5 10 15 20 25 30 35]"
    sizes = "examples for each pair of digits in train, dev and test [3 1 1]"
    three: dict[str, Any] = {"nargs": 3, "type": cli.WHOLE, "default": TEXTBOOK_MULTIPLICITIES}
    add("--out", required=True, type=cli.path, metavar="DIR", help="folder to write to")
    add("--lengths", "--length", **cli.LENGTHS, default=TEXTBOOK_LENGTHS, help=lengths)
    add("--multiplicities", **three, metavar="K", help=sizes)
    add("--seed", **cli.SEED, default=0, help="of the stream [0]")
    add("--overwrite", action="store_true", help="lose other data in these files")
    options = parser.parse_args(arguments)
    check_list("--lengths", tuple(options.lengths), whole(3, 100_000))
    for multiplicity in options.multiplicities:
        whole(1, 10_000)("--multiplicities", multiplicity)
    whole(0, 2**32 - 1)("--seed", options.seed)

    out, drawing = Path(options.out), (tuple(options.lengths), tuple(options.multiplicities))
    examples = 100 * sum(options.multiplicities)
    size = sum(examples * (2 * length + 2) for length in options.lengths)
    run_folder.check_place(out)
    run_folder.check_room(out, size)
    if out.exists() and not options.overwrite:
        for length, splits in textbook_splits(*drawing, options.seed):
            check_same(out, length, splits)
    number = f"{examples * len(options.lengths):,} examples"
    print(f"{number}, {size / 1e6:,.1f} MB, to {out}", flush=True)
    run_folder.make_folder(out)
    for length, splits in textbook_splits(*drawing, options.seed):
        write_splits(out, length, splits)
        sizes = ", ".join(f"{len(getattr(splits, name))} {name}" for name in SPLITS)
        print(f"{out / str(length)}: {sizes}; {splits.overlap} test also in train", flush=True)
