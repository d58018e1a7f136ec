"""The commands: what `scripts/NAME.py` does, and `srn-jax NAME` where there is no clone.

Each turns the command line's arguments into a call of `srn_jax.api`, and prints what it returns.
"""

import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from srn_jax import api
from srn_jax.arguments import How
from srn_jax.cli import options as cli
from srn_jax.config import CELLS, TEXTBOOK_LENGTHS, ExperimentConfig, check, check_list
from srn_jax.errors import UserError
from srn_jax.places import run_folder, write_data
from srn_jax.runs import devices

PRESETS = ("section", "quick", "textbook", "data", "probes", "every_loss", "overwrite", "folder")
SETTINGS = [field.name for field in fields(ExperimentConfig)]


def sweep(arguments: list[str]) -> None:
    """Train all lengths and many seeds at once, and draw the memory curve.

    python scripts/sweep.py --cell srn lstm              # several values: trained and compared
    python scripts/sweep.py --resume RUN --seeds 64      # adds to the same run
    python scripts/sweep.py --atlas DIR --cell mine.py:Mine   # adds a cell to every task's run
    """
    parser = cli.Parser(sweep.__doc__)
    settings = "settings (several values of one are compared)"
    cli.add_options(parser, "platform", settings, "run", "several processes")
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name) for name in ("lengths", *PRESETS, *SETTINGS)}
    given["seeds"] = options.seeds if options.first_seed is None else cli.seeds_chosen(options)
    given = {name: value for name, value in given.items() if not (value is None or value is False)}
    fixed = [name for name in PRESETS if name in given and name != "textbook"]
    if options.resume is not None and fixed:
        raise UserError(f"`resume` takes that from the run, leave out `{fixed[0]}`")
    if options.atlas is not None and (fixed or options.textbook or options.resume is not None):
        fixed += [name for name in ("textbook", "resume") if getattr(options, name)]
        raise UserError(f"`atlas` has runs of its own, leave out `{fixed[0]}`")
    given |= {field.name: getattr(options, field.name, "") for field in fields(How)}
    given["command"] = shlex.join([*cli.called("sweep"), *arguments])
    place = cli.distributed_of(options)
    if place is not None:
        print("waiting for the other processes", flush=True)
        devices.configure(options.platform, options.cpu_devices, place)
    try:
        if options.atlas is not None:
            chosen = {"cells": given.pop("cell", ()), "tasks": given.pop("task", None)}
            table = api.atlas(options.atlas, **chosen, **given)
            shown = table[["task", "measure", "cell", "seeds", "text"]].to_string(index=False)
            print(f"\n{shown}\n\natlas: {Path(options.atlas) / 'atlas.png'}")
            return
        if options.resume is not None:
            run = api.resume(options.resume, trust_code=options.trust_code, **given)
        else:
            run = api.train(**{"folder": True, **given})
    except api.Stopped as stop:
        words = ["--resume", str(stop.folder)] if options.atlas is None else arguments
        if options.platform not in ("auto", *words):
            words += ["--platform", options.platform]
        print(f"stopped; to go on: {shlex.join([*cli.called('sweep'), *words])}")
        sys.exit(128 + stop.signal)
    import jax

    if jax.process_index() == 0 and run.folder is not None:
        print(f"\n{run}\nreport: {run.folder / 'report.html'}", flush=True)


def evaluate(arguments: list[str]) -> None:
    """Restore the networks of a run from its checkpoints and test them.

    python scripts/evaluate.py RUN                          # the test accuracies of results.csv
    python scripts/evaluate.py RUN --lengths 5 --predict "3 4 0 0 0"
    """
    parser = cli.Parser(evaluate.__doc__)
    cli.add_options(parser, "a run", "networks of a run")
    data = "test on DIR/<length>/test.txt [the run's own data]"
    predict = 'what the networks answer to a sequence like "3 4 0"'
    parser.add_argument("--data", **cli.PATH, help=data)
    parser.add_argument("--predict", metavar="TOKENS", help=predict)
    cli.add_options(parser, "platform")
    options = parser.parse_args(arguments)
    if options.predict is not None and options.data is not None:
        raise UserError("`predict` needs no `data`, give one of them")
    chosen: Any = options.variant, options.lengths, cli.seeds_chosen(options), options.which
    run = open_run(options)
    if options.predict is not None:
        from srn_jax.answers import summary_of

        table = run.predict(options.predict, *chosen)
        shown = table.rename(columns={"length": "trained on length"})
        print(shown.replace({"right": {True: "yes", False: ""}}).to_string(index=False))
        print(f"\n{summary_of(table)}")
        return
    table = run.evaluate(options.data, *chosen)
    print(table.to_string(index=False, na_rep="-"))
    groups = [name for name in ("variant", "length") if name in table]
    means = table.groupby(groups, sort=False).test_accuracy.mean()
    print("\nmean test accuracy\n" + means.to_string(header=False, na_rep="-"))


def plot(arguments: list[str]) -> None:
    """Draw the figures and the report of a run again, or compare several.

    A run that is still going on is drawn as it stood at its newest checkpoints.
    """
    parser = cli.Parser(plot.__doc__)
    add = parser.add_argument
    add("runs", nargs="+", type=cli.path, metavar="RUN", help="run folders")
    out = "where it goes [the run's folder; of several, comparison beside the first]"
    add("--out", dest="folder", **cli.PATH, help=out)
    add("--labels", nargs="+", **cli.NAME, help="names for the runs")
    add("--baseline", **cli.NAME, help="the run to compare with [the first]")
    add("--variant", **cli.NAME, help="draw this one of a run alone [all]")
    add(cli.TRUST, **cli.SWITCH, help="run the Python in the runs, whoever wrote it")
    cli.add_options(parser, "look of the figures", "platform")
    parser.set_defaults(platform="cpu")  # the accelerator may be busy with the run itself
    options = parser.parse_args(arguments)
    labels, several = options.labels, len(options.runs) > 1
    if not several and (options.baseline or labels) is not None:
        raise UserError("`labels` and `baseline` are for several runs, and this is one")
    if several and options.variant is not None:
        raise UserError("`variant` is for a single run, and these are several")
    look, variant = cli.look_of(options), options.variant
    trusted = {"trust_code": options.trust_code, "platform": options.platform}
    runs = [api.load_run(run, **trusted) for run in options.runs]
    if not several:
        if variant is not None and options.folder is None:
            raise UserError("`variant` is drawn in a folder of its own, give `folder`")
        print("written:", *runs[0].report(options.folder, look, variant), sep="\n  ")
        return
    if labels is not None and (len(labels) != len(runs) or len(set(labels)) < len(labels)):
        wanted = f"{len(runs)} different names, one for each run"
        raise UserError(f"`labels` must be {wanted}, got {', '.join(labels)}")
    folder = options.folder or run_folder(options.runs[0]).parent / "comparison"
    named = dict(zip(labels, runs, strict=True)) if labels else runs
    found, paths = api.comparison_of(named, options.baseline, folder, look)
    print(found.table, *paths, sep="\n")


def explain(arguments: list[str]) -> None:
    """Explain why the networks of a run forget, into RUN/explanation/.

    python scripts/explain.py RUN                               # five lines, a page with figures
    python scripts/explain.py RUN --gates "6 7 0 0 1 0 0 0 0 0"  # and the gates along a sequence
    """
    parser = cli.Parser(explain.__doc__)
    cli.add_options(parser, "a run")
    add = parser.add_argument
    solver = "test accuracy above which a network is a solver [0.5]"
    add("--lengths", "--length", **cli.LENGTHS, help="only these [all]")
    add("--threshold", type=cli.NUMBER, default=0.5, metavar="X", help=solver)
    add("--gates", metavar="TOKENS", help='draw the gates along a sequence like "3 4 0"')
    add("--seed", **cli.SEED, help="whose gates [the first]")
    add("--out", dest="folder", **cli.PATH, help="folder [RUN/explanation]")
    cli.add_options(parser, "look of the figures", "platform")
    options = parser.parse_args(arguments)
    check("threshold", options.threshold, float, low=0, high=1)
    look = cli.look_of(options)
    run = open_run(options)
    place = Path(options.folder or run.folder / "explanation")
    from rich.progress import Progress

    gates = None
    if options.gates is not None:  # what is wrong with the sequence should show now
        gates = run.gates(options.gates, options.seed, options.variant)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("examining networks", total=None)
        found = run.explain(
            place,
            variant=options.variant,
            lengths=options.lengths,
            threshold=options.threshold,
            look=look,
            report=lambda done, total: bar.update(task, completed=done, total=total),
        )
    from srn_jax.analysis.explanation import answer_lines

    print(*answer_lines(found), "", f"in {place}", sep="\n")
    if gates is not None:
        from srn_jax.analysis.figures import gate_figure
        from srn_jax.analysis.look import save_figure

        for name in gates.values:
            print(*save_figure(gate_figure(name, gates, look), place / f"gate_{name}", look))


def convert(arguments: list[str]) -> None:
    """Exchange weights with the textbook's PyTorch program, and test them.

    python scripts/convert.py RUN --length 10 --seed 0 --to srn.pth     # or .npz, without PyTorch
    python scripts/convert.py --from srn.pth --evaluate data            # data/<length>/test.txt

    The networks are the textbook's (SRN, LSTM) or have PyTorch's nn.RNN, nn.LSTM or nn.GRU inside.
    """
    parser = cli.Parser(convert.__doc__)
    add = parser.add_argument
    add("run", nargs="?", type=cli.path, metavar="RUN", help="take a network of this run folder")
    add("--variant", **cli.NAME, help="of a run with several")
    add("--length", type=cli.WHOLE, metavar="L", help="length it was trained on")
    add("--seed", **cli.SEED, help="its seed")
    add("--which", choices=("best", "last"), help="its parameters [best]")
    add(cli.TRUST, **cli.SWITCH, help="run the Python in RUN though its files are gone")
    kinds = "take weights: .pth, .pt or .npz"
    add("--from", dest="source", type=cli.path, metavar="FILE", help=kinds)
    add("--to", type=cli.path, metavar="FILE", help="write the weights to a file of such a kind")
    add("--cell", choices=CELLS, help="what FILE has the weights of [as its names say]")
    add("--overwrite", **cli.SWITCH, help="lose a file that is there")
    add("--evaluate", **cli.PATH, help="test them on DIR/<length>/test.txt")
    cli.add_options(parser, "platform")
    options = parser.parse_args(arguments)
    from_run = options.length, options.seed, options.which
    if (options.run is None) == (options.source is None):
        raise UserError("weights come from a RUN or --from a FILE, give one of them")
    if options.run is not None and None in from_run[:2]:
        raise UserError("RUN has many networks, say which: `length` and `seed`")
    if options.source is not None and from_run != (None, None, None):
        raise UserError("`length`, `seed` and `which` are for a RUN, leave them out with --from")
    if options.run is not None and options.cell is not None:
        raise UserError("a RUN knows its cell, leave out `cell`")
    if options.to is None and options.evaluate is None:
        raise UserError("nothing to do, give `to` FILE or `evaluate` DIR")
    if options.to is not None and Path(options.to).exists() and not options.overwrite:
        raise UserError(f"{options.to} is there already, choose another name or `overwrite` it")
    if options.run is None:
        start(options)
        from srn_jax import answers

        found = answers.read_weights(options.source, options.cell)
    else:
        chosen = options.length, options.seed, options.variant, options.which or "best"
        run = open_run(options)
        from srn_jax import answers

        found = answers.weights_of(run, *chosen)
    if options.evaluate is not None:
        print(found.evaluate(options.evaluate).to_string(index=False))
        print("test loss: the mean over examples")
    if options.to is not None:
        print("written:", found.write(options.to))


def generate_data(arguments: list[str]) -> None:
    """Write the textbook's data files, byte for byte.

    They are DIR/<length>/{train,dev,test}.txt.
    """
    parser = cli.Parser(generate_data.__doc__)
    add = parser.add_argument
    lengths = "sequence lengths [5 10 15 20 25 30 35]"
    sizes = "examples for each pair of digits in train, dev and test [3 1 1]"
    three: dict[str, Any] = {"nargs": 3, "type": cli.WHOLE, "default": (3, 1, 1)}
    add("--out", dest="folder", required=True, **cli.PATH, help="folder")
    add("--lengths", "--length", **cli.LENGTHS, default=TEXTBOOK_LENGTHS, help=lengths)
    add("--multiplicities", **three, metavar="K", help=sizes)
    add("--seed", **cli.SEED, default=0, help="of the stream [0]")
    add("--overwrite", **cli.SWITCH, help="lose other data in these files")
    options = parser.parse_args(arguments)
    check_list("lengths", tuple(options.lengths), int, low=3, high=100_000)
    for multiplicity in options.multiplicities:
        check("multiplicities", multiplicity, int, low=1, high=10_000)
    check("seed", options.seed, int, low=0, high=2**32 - 1)
    drawing = tuple(options.lengths), tuple(options.multiplicities)
    kept = {"seed": options.seed, "overwrite": options.overwrite}
    for line in write_data(Path(options.folder), *drawing, **kept):
        print(line, flush=True)


def open_run(options: Any) -> Any:
    """The run that a command is about; JAX starts where the options say."""
    start(options)
    return api.load_run(options.run, trust_code=options.trust_code)


def start(options: Any) -> None:
    """Start JAX where the options say."""
    how = How(options.platform, options.cpu_devices)
    devices.start(how.platform, how.cpu_devices)
