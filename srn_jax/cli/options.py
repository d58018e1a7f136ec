"""Options made from the configuration, and mistakes as one clear line."""

import argparse
import atexit
import gc
import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from srn_jax import errors
from srn_jax.config import (
    PROBES,
    TEXTBOOK_LENGTHS,
    ExperimentConfig,
    check,
    option_name,
)
from srn_jax.errors import UserError, closest
from srn_jax.presets import SECTIONS
from srn_jax.runs.devices import PLATFORMS, Distributed

if TYPE_CHECKING:
    from srn_jax.analysis.look import Look

GARBAGE = 100_000  # objects after which Python looks for it: the libraries make a million that stay
OUT_OF_MEMORY = re.compile("out of memory|RESOURCE_EXHAUSTED", re.IGNORECASE)  # XLA's words
DEVICE_FAILS = re.compile(  # XLA's words for a device, a driver or a connection that is lost
    "(Jax|Xla)RuntimeError: (INTERNAL|UNAVAILABLE|ABORTED|UNKNOWN|DATA_LOSS|FAILED_PRECONDITION)"
    "(?!.*Traceback)",  # nor what a callback of the user's own has raised
    re.DOTALL,
)
OPTIONS: dict[str, str] = {}  # of the command that is running, by the names of arguments


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, with a hint for a misspelt option."""

    def __init__(self, description: str | None):
        first, _, rest = (description or "").strip().partition("\n")
        plain = argparse.RawDescriptionHelpFormatter
        super().__init__(description=first, epilog=rest, allow_abbrev=False, formatter_class=plain)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The options; raises `UserError` for what is none."""
        OPTIONS.clear()
        OPTIONS.update({a.dest: a.option_strings[0] for a in self._actions if a.option_strings})
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            wrong = next((word for word in unknown if word.startswith("--")), "").partition("=")[0]
            known = {option.strip("-").replace("-", "_") for option in self._option_string_actions}
            by_dest = {dest: option for dest, option in OPTIONS.items() if dest not in known}
            meant = (
                closest(wrong.strip("-").replace("-", "_"), [*by_dest, *known]) if wrong else None
            )
            option = by_dest.get(meant or "", option_name(meant or ""))
            hint = f"did you mean {option}?" if meant else "see --help"
            self.error(f"unrecognized arguments: {' '.join(unknown)}", hint)
        return options

    def error(self, message: str, hint: str = "see --help") -> NoReturn:
        """Raise the complaint as the user's mistake that it is."""
        raise UserError(f"{message} ({hint})")


def spelled(message: str) -> str:
    """A message in which the names of arguments are options of the command."""
    return re.sub("`(\\w+)`", lambda found: OPTIONS.get(found[1], found[0]), message)


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
    os.environ["MPLBACKEND"] = "agg"  # a notebook has set one for its own kernel
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # of a home that cannot be written
    errors.SPELL[:] = [spelled]
    gc.set_threshold(GARBAGE)
    atexit.register(gc.freeze)  # or half a second of leaving would be a last look for it
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(complain(spelled(str(error)), 2))
    except KeyboardInterrupt:
        sys.exit(complain("interrupted", 128 + signal.SIGINT))
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        sys.stderr.close()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        sys.exit(complain(error, 1))
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            advice = "fewer --seeds, smaller sizes, or a smaller --chunk"
            sys.exit(complain(f"not enough memory ({reason}): {advice}", 1))
        if DEVICE_FAILS.match(f"{type(error).__name__}: {error}"):
            advice = "the same command goes on from the newest checkpoint"
            sys.exit(complain(f"the devices have failed ({reason}): {advice}", 1))
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


def complain(problem: object, status: int) -> int:
    """Print one line on standard error; returns the exit status."""
    print("error:", " ".join(str(problem).split()), file=sys.stderr, flush=True)
    return status


def number_of(kind: type) -> Callable[[str], Any]:
    """A converter for argparse that says what it expected."""

    def convert(text: str) -> Any:
        try:
            return kind(text if text.isascii() else "")
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(
                f"{text!r} is not {wanted}{comma_hint(text)}"
            ) from None

    return convert


def or_none_of(kind: type) -> Callable[[str], Any]:
    """A converter for argparse that takes the word none as well."""
    return lambda text: None if text == "none" else number_of(kind)(text)


def comma_hint(text: str) -> str:
    """What to do where several values were written with commas."""
    parts = [part for part in text.split(",") if part]
    return f": write several with spaces, {' '.join(parts)}" if len(parts) > 1 else ""


def name_in(*choices: str) -> Callable[[str], str]:
    """A converter for argparse of names, which looks for commas between them alone."""

    def convert(text: str) -> str:
        if len(parts := text.split(",")) > 1 and set(parts) & set(choices):
            raise argparse.ArgumentTypeError(f"{text!r} is no name{comma_hint(text)}")
        return text

    return convert


def path(text: str) -> str:
    """A converter for argparse: an empty path, as of an unset variable, is not this folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one")
    return text


WHOLE, NUMBER = number_of(int), number_of(float)
LENGTHS: dict[str, Any] = {"nargs": "+", "type": WHOLE, "metavar": "L"}  # the same in all scripts
COUNT: dict[str, Any] = {"type": WHOLE, "metavar": "N"}
SEED: dict[str, Any] = {"type": WHOLE, "metavar": "S"}


def add_options(parser: Parser, *names: str) -> None:
    """Add groups of options that several commands share, by the titles of the groups."""
    for name in names:
        add = parser.add_argument_group(name).add_argument
        match name:
            case "platform":
                add("--platform", choices=PLATFORMS, default="auto", help="where to run")
                add("--cpu-devices", **COUNT, help="devices on a CPU [one a core]")
            case "a run":
                trust = "run the Python in RUN though the files that it came from are gone"
                add("run", type=path, metavar="RUN", help="run folder, or runs/latest")
                add("--variant", metavar="NAME", help="of a run with several [all]")
                add("--trust-code", action="store_true", help=trust)
            case "networks of a run":
                which = "parameters to restore [best]"
                add("--lengths", "--length", **LENGTHS, help="only of these lengths [all]")
                add("--seeds", **COUNT, help="how many seeds for each length [all]")
                add("--first-seed", **SEED, help="the first one; it alone without --seeds [0]")
                add("--which", choices=("best", "last"), default="best", help=which)
            case "run":
                out = "run folder [runs/NAME, by what it is]"
                resume = "go on with this run; with --seeds, --lengths or settings, add them to it"
                often = "seconds between checkpoints [30, or more, to stay under 2 %% of the time]"
                chunk = "experiments side by side on a device [1 on a CPU, what fits elsewhere]"
                kernel = "train by kernels written for GPUs [where they suit: newer ones of NVIDIA]"
                trust = "of a run that is resumed: run the Python in it, whoever wrote it"
                losses = "keep the training loss of every step [every 100th]"
                add("--out", dest="folder", type=path, metavar="DIR", help=out)
                add("--resume", type=path, metavar="RUN", help=resume)
                add("--overwrite", action="store_true", help="lose a run that the folder has")
                add("--checkpoint-every", type=NUMBER, metavar="S", help=often)
                add("--chunk", **COUNT, help=chunk)
                add("--kernel", action=argparse.BooleanOptionalAction, help=kernel)
                add("--every-loss", action="store_true", help=losses)
                add("--trust-code", action="store_true", help=trust)
            case "look of the figures":
                formats = "pdf, png or svg, or several [pdf png]"
                title = r"above every figure; $x$ is mathematics, \$ a dollar"
                style = "style sheet of Matplotlib's, for fonts and colours"
                add("--width", type=NUMBER, metavar="INCHES", help="with type to match")
                add("--format", dest="formats", nargs="+", metavar="KIND", help=formats)
                add("--title", metavar="WORDS", help=title)
                add("--style", type=path, metavar="FILE", help=style)
            case "several processes":
                found = "be one of several that JAX finds on Slurm, Kubernetes or Cloud TPU"
                add("--distributed", action="store_true", help=found)
                add("--coordinator", metavar="HOST:PORT", help="address of process 0")
                add("--processes", **COUNT, help="how many there are")
                add("--process", type=WHOLE, metavar="I", help="which this is, from 0")


def add_sweep_options(parser: Parser) -> None:
    """The settings of a sweep; those of the experiment may take several values, to compare them."""
    add = parser.add_argument_group("settings (several values of one are compared)").add_argument
    sections = "settings of a section of the textbook's chapter 6, where no others are given"
    lengths = f"sequence lengths [{' '.join(map(str, TEXTBOOK_LENGTHS))}]"
    add("--section", choices=SECTIONS, help=sections)
    add("--lengths", "--length", **LENGTHS, help=lengths)
    add("--seeds", **COUNT, help="how many seeds for each length [8]")
    add("--first-seed", **SEED, help="the first one [0]")
    for field in fields(ExperimentConfig):
        told, name = field.metadata, option_name(field.name)
        kinds = set(get_args(field.type)) or {field.type}
        if bool in kinds:
            add(name, action="append_const", const=True, help=told["help"])
            continue
        kind = next((one for one in (int, float) if one in kinds), str)
        known = ", ".join([*told["choices"], *(["FILE.py:NAME"] if told["own"] else [])])
        usual = "none" if field.default is None else field.default
        add(
            name,
            nargs="+",
            type=_converter(kind, type(None) in kinds, told),
            metavar={int: "N", float: "X", str: "NAME"}[kind],
            help=f"{told['help']}{': ' if known else ''}{known} [{usual}]".replace("%", "%%"),
        )
    probes = f"record at every step: {', '.join(PROBES)}, or FILE.py:NAME"
    data = "train on the files DIR/<length>/{train,dev,test}.txt"
    quick = "2 lengths, 4 seeds, 40 epochs: a look in seconds"
    book = "one seed on the textbook's own files, with the lines that its program prints"
    add("--probes", "--probe", nargs="+", type=name_in(*PROBES), metavar="NAME", help=probes)
    add("--data", type=path, metavar="DIR", help=data)
    add("--quick", action="store_true", help=quick)
    add("--textbook", action="store_true", help=book)


def _converter(kind: type, nothing: bool, told: Any) -> Callable[[str], Any]:
    """What turns the words of an option into the values of a setting."""
    if kind is str:
        return name_in(*told["choices"])
    convert = or_none_of(kind) if nothing else number_of(kind)
    return (lambda text: text if ".py:" in text else convert(text)) if told["own"] else convert


def seeds_chosen(options: Any) -> range | None:
    """The seeds that --seeds and --first-seed choose; None for all."""
    if options.seeds is None and options.first_seed is None:
        return None
    number = 1 if options.seeds is None else options.seeds
    check("seeds", number, int, low=1, high=1_000_000)
    first = options.first_seed or 0
    check("first_seed", first, int, low=0, high=2**32 - number)
    return range(first, first + number)


def look_of(options: Any) -> "Look":
    """The look that the options choose; raises `UserError` for one that cannot be had."""
    from srn_jax.analysis.look import Look

    formats = tuple(dict.fromkeys(options.formats or ("pdf", "png")))
    return Look(options.width, formats, options.title, options.style)


def distributed_of(options: Any) -> Distributed | None:
    """The place among several processes that the options give, or None for a single process."""
    place = options.coordinator, options.processes, options.process
    if place == (None, None, None):
        return Distributed() if options.distributed else None
    coordinator, processes, process = place
    if coordinator is None or processes is None or process is None:
        raise UserError("`coordinator`, `processes`, `process` belong together, give all three")
    host, _, port = coordinator.rpartition(":")
    if not host or not re.fullmatch("[0-9]+", port) or not 0 < int(port) < 65536:
        raise UserError(f"`coordinator` must be HOST:PORT, got {coordinator!r}")
    check("processes", processes, int, low=1, high=100_000)
    check("process", process, int, low=0, high=processes - 1)
    return Distributed(coordinator, processes, process)


def called(command: str) -> list[str]:
    """How this program was called, as the words of a command line."""
    without_clone = sys.argv[0].startswith(("srn-jax", "python -m"))  # by `__main__.dispatch`
    words = sys.argv[0].split()[:-1]
    return [*words, command] if without_clone else ["python", f"scripts/{command}.py"]
