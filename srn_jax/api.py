"""Training from Python: `srn_jax.train`, `srn_jax.load_run`, `srn_jax.compare`."""

import dataclasses
import os
import shlex
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srn_jax.analysis import report
from srn_jax.analysis.results import Histories, Results, Run
from srn_jax.checks import shown, switch, whole
from srn_jax.config import TEXTBOOK_LENGTHS, ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import lengths_in, read_data
from srn_jax.runs.signals import Interrupted, deferred

if TYPE_CHECKING:
    from srn_jax.training.model import Network


# Of several threads: JAX is started by one, and runs are trained and saved one after another.
STARTING, TRAINING = threading.Lock(), threading.Lock()


@dataclass(frozen=True)
class TrainedRun:
    """A run, finished or not, and its folder."""

    folder: Path
    run: Run

    @property
    def results(self) -> Results:
        """A row for each experiment."""
        return self.run.results

    @property
    def histories(self) -> Histories | None:
        """Losses, and what probes recorded, of each experiment."""
        return self.run.histories

    @property
    def table(self) -> str:
        """Accuracy by length, as text."""
        return report.results_table(self.results)

    @property
    def figures(self) -> dict[str, Path]:
        """The figures as PNG files, by name: `run.figures["6.7"]`."""
        return {path.stem: path for path in sorted((self.folder / "figures").glob("*.png"))}

    def network(self, length: int, seed: int, which: str = "best") -> "Network":
        """The trained network of one experiment, a flax.nnx module.

        Args:
            length: on which it was trained.
            seed: of the run's.
            which: `best` (on the development set) or `last` parameters.

        Raises:
            UserError: if the run has no such experiment.
        """
        start_jax()
        from srn_jax.runs.restore import restore_network

        return restore_network(self.folder, length, seed, which)

    def __repr__(self) -> str:
        ended = "" if self.run.info["finished"] else " (not finished, as of its newest checkpoint)"
        return f"{self.table}\n\nin {self.folder}{ended}"


def train(
    lengths: int | Iterable[int] | None = None,
    seeds: int | Iterable[int] = 8,
    *,
    folder: str | Path | None = None,
    data: str | Path | None = None,
    probes: str | Iterable[str] = (),
    overwrite: bool = False,
    **settings: Any,
) -> TrainedRun:
    """Train all lengths and seeds at once, or what is left of it, and show how far it is.

    Args:
        lengths: of the sequences; None takes all that `data` has, or the textbook's 5 to 35.
        seeds: how many for each length, or which.
        folder: of the run; None takes one of its own for these settings, under `runs/`.
        data: a folder with `<length>/{train,dev,test}.txt`; None draws data for each seed.
        probes: what is recorded at every step beside the loss, such as "gradient-norm".
        overwrite: whether another run that the folder holds may be lost.
        **settings: of the experiment, by the names of `srn_jax.ExperimentConfig`:
            `cell="lstm"`, `hidden_size=64`, `learning_rate=3e-3`, `epochs=100`, ...

    Raises:
        UserError: for settings that cannot be, or a folder with something else in it.
        KeyboardInterrupt: if it was interrupted; the same call goes on.
    """
    known = [field.name for field in dataclasses.fields(ExperimentConfig)]
    if unknown := settings.keys() - set(known):
        raise UserError(f"no setting {sorted(unknown)[0]!r}, expected one of {', '.join(known)}")
    settings = {name: plain(value) for name, value in settings.items()}
    if settings.get("steps") is not None and "epochs" in settings:
        raise UserError("steps and epochs both say how long to train, give one of them")
    switch("overwrite", overwrite)
    files = None if data is None else path_from("data", data)
    if files is not None and "multiplicity" in settings:
        raise UserError("multiplicity is for drawn data, leave it out with data")
    if lengths is None:
        lengths = TEXTBOOK_LENGTHS if files is None else lengths_in(files)
    lengths, seeds = several(lengths), plain(seeds)
    if isinstance(seeds, int):
        whole(1, 1_000_000)("seeds", seeds)  # before they are counted out
        seeds = range(seeds)
    seeds = several(seeds)
    config = SweepConfig(lengths, seeds, ExperimentConfig(**settings), None, several(probes))
    where = None if folder is None else path_from("folder", folder)
    if files is not None:
        config = dataclasses.replace(config, data=read_data(str(files), lengths)[0])
    with deferred():
        start_jax()
        from srn_jax.analysis.drawing import start_helpers
        from srn_jax.cli.study import run_study
        from srn_jax.runs.loop import RunOptions
        from srn_jax.runs.settings import default_folder

    where = where or default_folder([config])
    told = {"lengths": [*lengths], "seeds": [*seeds], **settings}
    told |= ({"data": str(files)} if files is not None else {}) | {"folder": str(where)}
    told |= {"probes": [*config.probes]} if config.probes else {}
    call = ", ".join(f"{name}={value!r}" for name, value in told.items())
    command = shlex.join(["python", "-c", f"import srn_jax; srn_jax.train({call})"])
    try:
        with TRAINING, start_helpers(2) as helpers:
            run_study([config], where, RunOptions(overwrite=overwrite, command=command), helpers)
    except Interrupted:
        raise KeyboardInterrupt("stopped and saved, the same call goes on") from None
    return load_run(where)


def plain(value: Any) -> Any:
    """A number of NumPy's as one of Python's, anything else as it is.

    Of a float of another precision it is the shortest decimal that means it: 0.01 for
    `np.float32(0.01)`, whose value is 0.009999999776482582.
    """
    if not isinstance(value, np.generic | np.ndarray) or value.ndim:
        return value
    scalar: Any = np.asarray(value)[()]
    decimal = isinstance(scalar, np.floating)
    return float(np.format_float_scientific(scalar)) if decimal else value.item()


def several(values: Any) -> tuple[Any, ...]:
    """One value or several as a tuple; a text is one."""
    values = plain(values)
    one = isinstance(values, str) or not isinstance(values, Iterable)
    return (values,) if one else tuple(map(plain, values))


def path_from(name: str, value: Any) -> Path:
    """A path that was given as an argument; raises `UserError` for what is none."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UserError(f"{name} must be a path, got {shown(value)}")
    return Path(value)


def load_run(folder: str | Path) -> TrainedRun:
    """A run out of its folder; of one that has not ended, as of its newest checkpoint.

    Raises:
        UserError: if there is nothing to read.
    """
    from srn_jax.cli.publish import load_run as load

    folder = path_from("folder", folder).absolute()  # whatever the working directory becomes
    return TrainedRun(folder, load(folder, start_jax))


def compare(
    runs: Mapping[str, TrainedRun | str | Path],
    folder: str | Path = "runs/comparison",
    baseline: str | None = None,
) -> Path:
    """Compare runs, seed by seed: prints a table, draws, and returns the path of the figure.

    Args:
        runs: or their folders, by the names under which they are shown.
        folder: where the comparison is written.
        baseline: the name of the run that others are compared with; None for the first.

    Raises:
        UserError: for no runs, names that cannot be shown, or no such baseline.
    """
    if not isinstance(runs, Mapping):
        raise UserError(f"runs must be a dictionary of runs by their names, got {shown(runs)}")
    if not runs:
        raise UserError("there is no run to compare, give at least one")
    from srn_jax.analysis.words import check_name
    from srn_jax.cli.publish import COMPARISON, publish_comparison

    for name in runs:
        if not isinstance(name, str):
            raise UserError(f"the names of runs must be text, got {shown(name)}")
        check_name(name, f"run {shown(name)}")
    if not isinstance(baseline, str | None):
        raise UserError(f"baseline must be the name of a run, got {shown(baseline)}")
    folder = path_from("folder", folder)
    own = {
        name: (one if isinstance(one, TrainedRun) else load_run(path_from(f"run {name}", one))).run
        for name, one in runs.items()
    }
    publish_comparison(folder, own, baseline)
    return folder / "figures" / f"{COMPARISON}.png"


def start_jax() -> None:
    """Start JAX as the scripts do, unless it is running already."""
    from srn_jax.cli import devices

    with STARTING:
        try:
            devices.configure()
        except RuntimeError:  # the devices are there, as the user has set them up
            devices.tell_of_few_devices()
