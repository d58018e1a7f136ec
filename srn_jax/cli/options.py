"""What the scripts share: options made from the configuration, and errors as one clear line."""

import argparse
import atexit
import dataclasses
import gc
import io
import itertools
import os
import re
import signal
import sys
import traceback
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from srn_jax.checks import positive, whole
from srn_jax.cli import processes
from srn_jax.cli.devices import PLATFORMS, Distributed
from srn_jax.config import (
    PROBES,
    TEXTBOOK_LENGTHS,
    DataFolder,
    ExperimentConfig,
    SweepConfig,
    option_name,
)
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import (
    check_same,
    lengths_in,
    read_data,
    textbook_splits,
    write_splits,
)

if TYPE_CHECKING:
    from srn_jax.analysis.look import Look

QUICK: dict[str, Any] = {"lengths": [5, 10], "seeds": 4, "epochs": [40]}
SECTIONS: dict[str, dict[str, Any]] = {  # of the textbook's chapter 6
    "6.1": {},
    "6.2": {
        "lengths": [20],
        "optimizer": ["sgd"],
        "learning_rate": [0.2],
        "loss_reduction": ["sum"],
        "batch_size": [64],
        "epochs": [50],
        "clip_norm": [None, 5.0],
        "probe": ["gradient-norm"],
    },
    "6.3": {"cell": ["srn", "lstm"]},
}
TEXTBOOK_DATA = "runs/textbook-data"
GARBAGE = 100_000  # objects after which Python looks for it: the libraries make a million that stay
OUT_OF_MEMORY = re.compile("out of memory|RESOURCE_EXHAUSTED", re.IGNORECASE)  # XLA's words
DEVICE_FAILS = re.compile(  # XLA's words for a device, a driver or a connection that is lost
    "(Jax|Xla)RuntimeError: (INTERNAL|UNAVAILABLE|ABORTED|UNKNOWN|DATA_LOSS|FAILED_PRECONDITION)"
    "(?!.*Traceback)",  # nor what a callback of the user's own has raised
    re.DOTALL,
)
EXPERIMENT_FIELDS = dataclasses.fields(ExperimentConfig)
SETTINGS = (
    *("section", "quick", "textbook", "lengths", "seeds", "first_seed", "data", "probe"),
    *(field.name for field in EXPERIMENT_FIELDS),
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def __init__(self, description: str | None):
        first_line = (description or "").strip().splitlines()[0]
        super().__init__(description=first_line, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise the complaint as the user's mistake that it is."""
        raise UserError(f"{message} (see --help)")


def run_script(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a script's main function with the command line and exit.

    The exit status is 2 for a user's mistake, 1 for a failure of the machine (a full disk), and
    128 + n where signal n stopped it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed, and its number must not become a file's
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    gc.set_threshold(GARBAGE)
    atexit.register(gc.freeze)  # or half a second of leaving would be a last look for it
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(complain(error, 2))
    except KeyboardInterrupt:
        sys.exit(complain("interrupted", 128 + signal.SIGINT))
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        processes.fail("the reader of its output has gone", 128 + signal.SIGPIPE)
        sys.stderr.close()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        sys.exit(complain(error, 1))
    except Exception as error:
        processes.wait_for_verdict()
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            advice = "fewer --seeds, smaller sizes, or a smaller --chunk"
            sys.exit(complain(f"not enough memory ({reason}): {advice}", 1))
        if DEVICE_FAILS.match(f"{type(error).__name__}: {error}"):
            advice = "the same command goes on from the newest checkpoint"
            sys.exit(complain(f"the devices have failed ({reason}): {advice}", 1))
        traceback.print_exc()
        processes.fail(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", 1)
        sys.exit(1)
    finally:  # a process that has failed beside others has left above
        processes.done()
    sys.exit(0)


def complain(problem: object, status: int) -> int:
    """Print one line on standard error, also to other processes; returns the exit status."""
    line = " ".join(str(problem).split())
    print("error:", line, file=sys.stderr, flush=True)
    processes.fail(line, status)
    return status


def number_of(kind: type) -> Callable[[str], Any]:
    """A converter for argparse that says what it expected."""

    def convert(text: str) -> Any:
        try:
            return kind(text if text.isascii() else "")
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None

    return convert


def or_none_of(kind: type) -> Callable[[str], Any]:
    """A converter for argparse that takes the word none as well."""
    return lambda text: None if text == "none" else number_of(kind)(text)


def path(text: str) -> str:
    """A converter for argparse: an empty path, as of an unset variable, is not this folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one")
    return text


WHOLE, NUMBER = number_of(int), number_of(float)
LENGTHS: dict[str, Any] = {"nargs": "+", "type": WHOLE, "metavar": "L"}  # the same in all scripts
COUNT: dict[str, Any] = {"type": WHOLE, "metavar": "N"}
SEED: dict[str, Any] = {"type": WHOLE, "metavar": "S"}


def add_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add groups of options that several commands share, by the titles of the groups."""
    for name in names:
        add = parser.add_argument_group(name).add_argument
        match name:
            case "platform":
                add("--platform", choices=PLATFORMS, default="auto", help="where to run")
                add("--cpu-devices", **COUNT, help="devices on a CPU [one a core]")
            case "networks of a run":
                which = "parameters to restore [best]"
                add("--lengths", "--length", **LENGTHS, help="only of these lengths [all]")
                add("--seeds", **COUNT, help="how many seeds for each length [all]")
                add("--first-seed", **SEED, help="the first one; it alone without --seeds [0]")
                add("--which", choices=("best", "last"), default="best", help=which)
            case "run":
                out = "run folder [one of its own for each settings, under runs/]"
                resume = "go on with the run in this folder, or give a finished one more --seeds"
                often = "seconds between checkpoints [30, or more, to stay under 2 %% of the time]"
                chunk = "experiments side by side on a device [1 on a CPU, what fits elsewhere]"
                kernel = "train by kernels written for GPUs [where they suit: newer ones of NVIDIA]"
                add("--out", type=path, metavar="DIR", help=out)
                add("--resume", type=path, metavar="RUN", help=resume)
                add("--overwrite", action="store_true", help="lose a run that the folder has")
                add("--checkpoint-every", type=NUMBER, metavar="S", help=often)
                add("--chunk", **COUNT, help=chunk)
                add("--kernel", action=argparse.BooleanOptionalAction, help=kernel)
            case "look of the figures":
                formats = "pdf, png or svg, or several [pdf png]"
                title = r"above every figure; $x$ is mathematics, \$ a dollar"
                add("--width", type=NUMBER, metavar="INCHES", help="with type to match")
                add("--format", nargs="+", metavar="KIND", help=formats)
                add("--title", metavar="WORDS", help=title)
                add("--lang", default="en", help="of the labels: en or zh [en]")
            case "several processes":
                found = "be one of several that JAX finds on Slurm, Kubernetes or Cloud TPU"
                add("--distributed", action="store_true", help=found)
                add("--coordinator", metavar="HOST:PORT", help="address of process 0")
                add("--processes", **COUNT, help="how many there are")
                add("--process", type=WHOLE, metavar="I", help="which this is, from 0")


def look_of(options: argparse.Namespace) -> "Look":
    """The look that the options choose; raises `UserError` for one that cannot be had."""
    from srn_jax.analysis.look import Look  # which loads Matplotlib

    formats = tuple(dict.fromkeys(options.format or ("pdf", "png")))
    return Look(options.width, formats, options.title, options.lang)


def start_platform(options: argparse.Namespace) -> None:
    """Start JAX as the platform options say; raises `UserError` if it can't."""
    from srn_jax.cli import devices as platform

    # A full disk or a read-only home must not be told by JAX as well, in lines of its own.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if options.cpu_devices is not None:
        whole(1, 1024)("--cpu-devices", options.cpu_devices)
    platform.configure(options.platform, options.cpu_devices, distributed_of(options))


def distributed_of(options: argparse.Namespace) -> Distributed | None:
    """The place among several processes that the options give, or None for a single process."""
    coordinator: str | None = getattr(options, "coordinator", None)
    processes: int | None = getattr(options, "processes", None)
    process: int | None = getattr(options, "process", None)
    if coordinator is None and processes is None and process is None:
        return Distributed() if getattr(options, "distributed", False) else None
    if coordinator is None or processes is None or process is None:
        raise UserError("--coordinator, --processes and --process belong together, give all three")
    host, _, port = coordinator.rpartition(":")
    if not host or not re.fullmatch("[0-9]+", port) or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator must be HOST:PORT, got {coordinator!r}")
    whole(1, 100_000)("--processes", processes)
    whole(0, processes - 1)("--process", process)
    return Distributed(coordinator, processes, process)


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """The settings of a sweep; those of the experiment may take several values, to compare them."""
    group = parser.add_argument_group("settings (several values of one are compared)")
    defaults = SweepConfig()
    sections = "settings of a section of the textbook's chapter 6, where no others are given"
    lengths = f"sequence lengths [{' '.join(map(str, defaults.lengths))}]"
    seeds = f"how many seeds for each length [{len(defaults.seeds)}]"
    group.add_argument("--section", choices=SECTIONS, help=sections)
    group.add_argument("--lengths", "--length", **LENGTHS, help=lengths)
    group.add_argument("--seeds", **COUNT, help=seeds)
    group.add_argument("--first-seed", **SEED, help="the first one [0]")
    kinds = typing.get_type_hints(ExperimentConfig)
    for field in EXPERIMENT_FIELDS:
        name, help = option_name(field.name), field.metadata["help"]
        if kinds[field.name] is bool:
            group.add_argument(name, action="append_const", const=True, help=help)
            continue
        kind, *none = typing.get_args(kinds[field.name]) or (kinds[field.name],)
        group.add_argument(
            name,
            nargs="+",
            type=kind if kind is str else or_none_of(kind) if none else number_of(kind),
            metavar="X" if kind is float else "NAME" if kind is str else "N",
            help=f"{help} [{'none' if field.default is None else field.default}]",
        )
    probes = f"record at every step: {', '.join(PROBES)}, or FILE.py:NAME"
    data = "train on the files DIR/<length>/{train,dev,test}.txt"
    quick = "2 lengths, 4 seeds, 40 epochs: a look in seconds"
    book = "one seed on the textbook's own files, with the lines that its program prints"
    group.add_argument("--probe", nargs="+", metavar="NAME", help=probes)
    group.add_argument("--data", type=path, metavar="DIR", help=data)
    group.add_argument("--quick", action="store_true", default=None, help=quick)
    group.add_argument("--textbook", action="store_true", default=None, help=book)


def sweeps_of(options: argparse.Namespace) -> list[SweepConfig]:
    """The sweeps that the options describe: one, or one for each combination of several values.

    Raises:
        UserError: for a value out of its range, or a data folder with nothing in it.
    """
    if options.steps is not None and options.epochs is not None:
        raise UserError("--steps and --epochs both say how long to train, give one of them")
    chosen = {name: getattr(options, name) for name in SETTINGS}
    presets = [{"data": TEXTBOOK_DATA, "seeds": 1}] if chosen["textbook"] else []
    presets += [QUICK] if chosen["quick"] else []
    presets += [SECTIONS[chosen["section"]]] if chosen["section"] else []
    book = chosen["textbook"] and chosen["data"] is None
    for name, value in (pair for preset in presets for pair in preset.items()):
        if chosen[name] is None and (name != "lengths" or book or chosen["data"] is None):
            chosen[name] = value
    lengths, data = chosen["lengths"], chosen["data"]
    if lengths is None:
        lengths = SweepConfig().lengths if data is None or book else lengths_in(Path(data))
    number = len(SweepConfig().seeds) if chosen["seeds"] is None else chosen["seeds"]
    names = [f.name for f in EXPERIMENT_FIELDS if chosen[f.name] is not None]
    for name in names:
        if len(set(chosen[name])) < len(chosen[name]):
            raise UserError(f"{option_name(name)} has a value more than once")
    sweep = SweepConfig(
        lengths=tuple(lengths),
        seeds=seeds_of(number, chosen["first_seed"]),
        data=None if data is None else DataFolder(data, ""),
        probes=tuple(chosen["probe"] or ()),
    )
    sweeps = [
        dataclasses.replace(
            sweep, experiment=ExperimentConfig(**dict(zip(names, values, strict=True)))
        )
        for values in itertools.product(*(chosen[name] for name in names))
    ]
    if data is None:
        return sweeps
    if chosen["multiplicity"] is not None:
        raise UserError("--multiplicity is for drawn data, leave it out with --data")
    if book:
        if not set(lengths) <= set(TEXTBOOK_LENGTHS):
            known = ", ".join(map(str, TEXTBOOK_LENGTHS))
            raise UserError(f"--lengths: the textbook has files of {known} alone, see --data")
        for length, splits in textbook_splits():
            check_same(Path(data), length, splits)
            write_splits(Path(data), length, splits)
    folder, _ = read_data(data, sweep.lengths)  # what is wrong with it should show now
    return [dataclasses.replace(sweep, data=folder) for sweep in sweeps]


def seeds_of(number: int, first: int | None) -> tuple[int, ...]:
    """So many seeds, from the first on; raises `UserError` for numbers out of range."""
    whole(1, 1_000_000)("--seeds", number)
    whole(0, 2**32 - number)("--first-seed", first := first or 0)
    return tuple(range(first, first + number))


def check_run_options(options: argparse.Namespace) -> None:
    """Raise `UserError` for values out of range and options that exclude each other."""
    if options.checkpoint_every is not None:
        positive(1e9)("--checkpoint-every", options.checkpoint_every)
    if options.chunk is not None:
        whole(1, 1_000_000)("--chunk", options.chunk)
    if options.kernel and options.platform == "tpu":
        raise UserError("--kernel is for GPUs, leave it out with --platform tpu")
    if options.resume is not None:
        allowed = ("textbook", "seeds")
        given = [n for n in SETTINGS if n not in allowed and getattr(options, n) is not None]
        given += ["overwrite"] if options.overwrite else []
        given += ["out"] if options.out is not None and options.seeds is None else []
        if given:
            raise UserError(
                f"--resume takes its settings from the run, leave out {option_name(given[0])}"
            )
        if options.seeds is not None:
            whole(1, 1_000_000)("--seeds", options.seeds)
            if distributed_of(options) is not None:
                raise UserError("--resume with more --seeds is for one process")


def seeds_chosen(options: argparse.Namespace) -> tuple[int, ...] | None:
    """The seeds that the options of `networks of a run` choose; None for all."""
    if options.seeds is None and options.first_seed is None:
        return None
    return seeds_of(1 if options.seeds is None else options.seeds, options.first_seed)


def called(command: str) -> list[str]:
    """How this program was called, as the words of a command line."""
    without_clone = sys.argv[0].startswith(("srn-jax", "python -m"))  # by `__main__.dispatch`
    words = sys.argv[0].split()[:-1]
    return [*words, command] if without_clone else ["python", f"scripts/{command}.py"]
