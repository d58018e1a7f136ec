"""`python -m srn_jax COMMAND ...`, or `srn-jax COMMAND ...`: the scripts, without a clone."""

import sys
from pathlib import Path

if Path(sys.argv[0]).name == "__main__.py" and not sys.flags.safe_path:
    sys.path.pop(0)  # the current directory: nothing is imported from it

from srn_jax.cli import commands, options
from srn_jax.errors import UserError, closest

COMMANDS = {
    "sweep": commands.sweep,
    "plot": commands.plot,
    "evaluate": commands.evaluate,
    "explain": commands.explain,
    "convert": commands.convert,
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
        meant = closest(name, COMMANDS)
        hint = f"did you mean {meant}?" if meant else f"expected one of {', '.join(COMMANDS)}"
        raise UserError(f"no command {name!r}, {hint}")
    module = Path(sys.argv[0]).name == "__main__.py"
    sys.argv[0] = f"{'python -m srn_jax' if module else 'srn-jax'} {name}"
    COMMANDS[name](rest)


def main() -> None:
    """The entry point `srn-jax`."""
    options.run_script(dispatch)


if __name__ == "__main__":
    main()
