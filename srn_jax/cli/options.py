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
from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from srn_jax import errors
from srn_jax.arguments import SECTIONS, How
from srn_jax.config import PROBES, TEXTBOOK_LENGTHS, ExperimentConfig, check, option_name
from srn_jax.errors import UserError, closest
from srn_jax.runs.devices import Distributed

if TYPE_CHECKING:
    from srn_jax.analysis.look import Look

GARBAGE = 100_000  # objects after which Python looks for it: the libraries make a million that stay
OUT_OF_MEMORY = re.compile("out of memory|RESOURCE_EXHAUSTED", re.IGNORECASE)  # XLA's words
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
            known = {
                word.strip("-").replace("-", "_"): word for word in self._option_string_actions
            }
            known = {**OPTIONS, **known}
            meant = closest(wrong.strip("-").replace("-", "_"), known) if wrong else None
            hint = f"did you mean {known[meant]}?" if meant else "see --help"
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
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            reason = (str(error) or "Python has none").splitlines()[0][:200]
            advice = "fewer --seeds, smaller sizes, or a smaller --chunk"
            sys.exit(complain(f"not enough memory ({reason}): {advice}", 1))
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


def complain(problem: object, status: int) -> int:
    """Print one line on standard error; returns the exit status."""
    print("error:", " ".join(str(problem).split()), file=sys.stderr, flush=True)
    return status


def number_of(kind: type, *words: str) -> Callable[[str], Any]:
    """A converter for argparse that says what it expected; it takes some words as they are."""

    def convert(text: str) -> Any:
        if text in words or (".py:" in text and ".py:" in words):
            return None if text == "none" else text
        try:
            return kind(text if text.isascii() else "")
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            said = f"{text!r} is not {wanted}{comma_hint(text)}"
            raise argparse.ArgumentTypeError(said) from None

    return convert


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
PATH: dict[str, Any] = {"type": path, "metavar": "DIR"}
NAME: dict[str, Any] = {"metavar": "NAME"}
SWITCH: dict[str, Any] = {"action": "store_true"}
LENGTH, TRUST = ("--lengths", "--length"), "--trust-code"
GROUPS: dict[str, list[tuple[Any, dict[str, Any], str]]] = {  # of options that commands share
    "a run": [
        ("run", {"type": path, "metavar": "RUN"}, "run folder, or runs/latest"),
        ("--variant", NAME, "of a run with several [all]"),
        (TRUST, SWITCH, "run the Python in RUN though the files that it came from are gone"),
    ],
    "networks of a run": [
        (LENGTH, LENGTHS, "only of these lengths [all]"),
        ("--seeds", COUNT, "how many seeds for each length [all]"),
        ("--first-seed", SEED, "the first one; it alone without --seeds [0]"),
        ("--which", {"choices": ("best", "last"), "default": "best"}, "parameters [best]"),
    ],
    "run": [
        ("--out", PATH | {"dest": "folder"}, "run folder [runs/NAME, by what it is]"),
        ("--resume", PATH, "go on with this run; with --seeds, --lengths or settings, add them"),
        ("--atlas", PATH, "every cell on every task, in this folder; --cell adds to them"),
        ("--overwrite", SWITCH, "lose a run that the folder has"),
        ("--every-loss", SWITCH, "keep the training loss of every step [every 100th]"),
        (TRUST, SWITCH, "of a run that is resumed: run the Python in it, whoever wrote it"),
    ],
    "look of the figures": [
        ("--width", {"type": NUMBER, "metavar": "INCHES"}, "with type to match"),
        ("--format", NAME | {"dest": "formats", "nargs": "+"}, "pdf, png, svg [pdf png]"),
        ("--title", NAME, r"above every figure; $x$ is mathematics, \$ a dollar"),
        ("--style", PATH, "file of Matplotlib's settings, for fonts and colours"),
    ],
    "several processes": [
        ("--distributed", SWITCH, "be one of several that JAX finds on Slurm, Kubernetes, ..."),
        ("--coordinator", NAME, "address of process 0, HOST:PORT"),
        ("--processes", COUNT, "how many there are"),
        ("--process", COUNT, "which this is, from 0"),
    ],
    "settings (several values of one are compared)": [
        ("--section", {"choices": SECTIONS}, "settings of a section of the textbook's chapter 6"),
        (
            LENGTH,
            LENGTHS | {"type": number_of(int, "any")},
            f"sequence lengths [{' '.join(map(str, TEXTBOOK_LENGTHS))}]; any: all of --data in one",
        ),
        ("--seeds", COUNT, "how many seeds for each length [8]"),
        ("--first-seed", SEED, "the first one [0]"),
        (
            ("--probes", "--probe"),
            NAME | {"nargs": "+", "type": name_in(*PROBES)},
            f"record at every step: {', '.join(PROBES)}, or FILE.py:NAME",
        ),
        ("--data", PATH, "train on the files DIR/<length>/{train,dev,test}.txt"),
        ("--quick", SWITCH, "2 lengths, 4 seeds, 40 epochs: a look in seconds"),
        ("--textbook", SWITCH, "one seed on the textbook's own files, with its program's lines"),
    ],
}
PLATFORM = fields(How)[:2]


def add_options(parser: Parser, *names: str) -> None:
    """Add groups of options that several commands share, by the titles of the groups."""
    for name in names:
        group = parser.add_argument_group(name)
        for words, how, told in GROUPS.get(name, ()):
            group.add_argument(*([words] if isinstance(words, str) else words), **how, help=told)
        if name.startswith("settings"):
            add_knobs(group, fields(ExperimentConfig), several=True)
        if name in ("platform", "run"):
            add_knobs(group, PLATFORM if name == "platform" else fields(How)[2:-1])


def add_knobs(group: Any, knobs: Iterable[Field[Any]], several: bool = False) -> None:
    """Add an option for each field of a configuration, of which one may have several values."""
    for field in knobs:
        told, name = field.metadata, option_name(field.name)
        kinds = set(get_args(field.type)) or {field.type}
        known = ", ".join([*told["choices"], *(["FILE.py:NAME"] if told["own"] else [])])
        usual = "none" if field.default is None else field.default
        text = f"{told['help']}{': ' if known else ''}{known}".replace("%", "%%")
        text += "" if text.endswith("]") else f" [{usual}]"
        if bool in kinds:
            how: dict[str, Any] = {"action": "append_const", "const": True}
            group.add_argument(
                name, help=text, **(how if several else {"action": argparse.BooleanOptionalAction})
            )
            continue
        kind = next((one for one in (int, float) if one in kinds), str)
        words = [w for w, has in (("none", type(None) in kinds), (".py:", told["own"])) if has]
        how = {"nargs": "+"} if several else {"default": field.default}
        how["type"] = name_in(*told["choices"]) if kind is str else number_of(kind, *words)
        group.add_argument(
            name, metavar={int: "N", float: "X", str: "NAME"}[kind], help=text, **how
        )


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
