"""`python -m srn_jax COMMAND ...`, or `srn-jax COMMAND ...`: the scripts, without a clone."""

import sys
from pathlib import Path

from srn_jax.cli import commands, options
from srn_jax.cli.convert import convert
from srn_jax.errors import UserError

COMMANDS = {
    "sweep": commands.sweep,
    "plot": commands.plot,
    "evaluate": commands.evaluate,
    "explain": commands.explain,
    "convert": convert,
    "generate-data": commands.generate_data,
}
USAGE = "usage: srn-jax COMMAND ... (--help of each has the rest)\n"


def dispatch(arguments: list[str]) -> None:
    """Do what a command line says, of which the first word is the command."""
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h"):
        lines = [f"  {n:14} {(c.__doc__ or '').splitlines()[0]}" for n, c in COMMANDS.items()]
        print(USAGE, *lines, sep="\n")
        return
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}, expected one of {', '.join(COMMANDS)}")
    module = Path(sys.argv[0]).name == "__main__.py"
    sys.argv[0] = f"{'python -m srn_jax' if module else 'srn-jax'} {name}"
    COMMANDS[name](rest)


def main() -> None:
    """The entry point `srn-jax`."""
    options.run_script(dispatch)


if __name__ == "__main__":
    main()
