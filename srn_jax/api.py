"""Training from Python: `srn_jax.train`, `resume`, `load_run` and `compare`."""

import itertools
import os
import shlex
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srn_jax.config import DEFAULTS, TEXTBOOK_LENGTHS, ExperimentConfig, SweepConfig, check
from srn_jax.errors import UserError, closest, shown
from srn_jax.naming import default_folder, path_from, point_to_newest, run_folder
from srn_jax.own_files import describe, name_of
from srn_jax.presets import with_presets
from srn_jax.run import Run

if TYPE_CHECKING:
    import pandas as pd

    from srn_jax.analysis.look import Look

SETTINGS = tuple(each.name for each in fields(ExperimentConfig))
OWN = tuple(each.name for each in fields(ExperimentConfig) if each.metadata["own"])
TRAINING = threading.Lock()  # held while a run is trained


@dataclass(frozen=True)
class How:
    """How a run is trained, apart from what it is: nothing of it changes a result on its own.

    For `platform` and `cpu_devices` see `runs.devices`, for the rest `train`.
    """

    platform: str = "auto"
    cpu_devices: int | None = None
    overwrite: bool = False
    checkpoint_every: float | None = None
    chunk: int | None = None
    kernel: bool | None = None
    textbook: bool = False
    command: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        from srn_jax.runs.devices import PLATFORMS

        check("platform", self.platform, str, choices=PLATFORMS)
        check("cpu_devices", self.cpu_devices, int | None, low=1, high=1024)
        check("overwrite", self.overwrite, bool)
        check("checkpoint_every", self.checkpoint_every, float | None, low=0, high=1e9, above=True)
        check("chunk", self.chunk, int | None, low=1, high=1_000_000)
        check("kernel", self.kernel, bool | None)
        if self.kernel and self.platform == "tpu":
            raise UserError("`kernel` is for GPUs, leave it out with `platform` tpu")


def train(
    lengths: int | Iterable[int] | None = None,
    seeds: int | Iterable[int] | None = None,
    *,
    folder: str | Path | None = None,
    data: str | Path | None = None,
    probes: Any = None,
    every_loss: bool = False,
    section: str | None = None,
    quick: bool = False,
    textbook: bool = False,
    platform: str = "auto",
    cpu_devices: int | None = None,
    overwrite: bool = False,
    checkpoint_every: float | None = None,
    chunk: int | None = None,
    kernel: bool | None = None,
    command: str | None = None,
    **settings: Any,
) -> Run:
    """Train all lengths and seeds at once, or what is left of it, and show how far it is.

    Args:
        lengths: of the sequences; None takes all that `data` has, or the textbook's 5 to 35.
        seeds: how many for each length, or which; None for 8.
        folder: of the run, where it can be continued; None keeps it in memory, until `run.save`.
        data: a folder with `<length>/{train,dev,test}.txt`; None draws data for each seed.
        probes: what is recorded at every step beside the loss, such as "gradient-norm".
        every_loss: keep the training loss of every step, not of every 100th.
        section: settings of a section of the textbook, where no others are given: "6.1", ...
        quick: two lengths, four seeds, 40 epochs, where no others are given.
        textbook: one seed on the textbook's own files, with the lines that its program prints.
        platform: "auto", "cpu", "gpu" or "tpu".
        cpu_devices: into how many devices a CPU is divided; None for one a core.
        overwrite: whether another run that the folder holds may be lost.
        checkpoint_every: seconds from one checkpoint to the next; None for 30 or more, so that
            they take less than 2 % of the time.
        chunk: experiments side by side on a device; None for what is fastest there.
        kernel: train by the kernels for GPUs, or do not; None uses them where they suit.
        command: what the report names as the way to repeat the run; None for this call.
        **settings: of the experiment, by the names of `srn_jax.ExperimentConfig`:
            `cell="lstm"`, `hidden_size=64`, `learning_rate=[1e-3, 3e-3]`, ... Of several values,
            each combination is a variant. `task`, `cell`, `optimizer`, `learning_rate` (a schedule)
            and `probes` may be objects.

    Raises:
        UserError: for settings that cannot be, or a folder with something else in it.
        KeyboardInterrupt: if it was interrupted; the same call goes on.
    """
    given = {"lengths": lengths, "seeds": seeds, "data": data, "probes": probes, **settings}
    given = {name: value for name, value in given.items() if name in settings or value is not None}
    options = (overwrite, checkpoint_every, chunk, kernel, textbook)
    with alone():
        how = How(platform, cpu_devices, *options, command or call_of("train", given, folder))
        given = with_presets(given, section, quick, textbook)
        configs = configs_of(every_loss=every_loss, **given)
        where = None if folder is None else path_from("folder", folder)
        return _train(configs, where, how)


def resume(
    folder: str | Path,
    *,
    lengths: int | Iterable[int] | None = None,
    seeds: int | Iterable[int] | None = None,
    trust_code: bool = False,
    objects: Mapping[str, Any] | None = None,
    how: How | None = None,
    **more: Any,
) -> Run:
    """Go on with a run, or add lengths, seeds or variants to it; what it has stays as it is.

    Args:
        folder: of the run.
        lengths: that it shall have as well.
        seeds: how many it shall have for each length, or which as well.
        trust_code: run the Python files that the folder holds, though their originals are gone.
        objects: what the run was made of and no file holds, by the names of settings.
        how: it is trained; None for the defaults of `train`.
        **more: values of settings that shall be compared as well: `cell="gru"`.

    Raises:
        UserError, KeyboardInterrupt: as `train`.
    """
    given = {"lengths": lengths, "seeds": seeds}
    given = {name: value for name, value in (given | more).items() if value is not None}
    with alone():
        from srn_jax.runs.folder import read_configs

        folder = run_folder(folder)
        objects = {**(objects or {}), **{n: v for n, v in more.items() if n in OWN}}
        configs = read_configs(folder, objects=objects, trust_code=trust_code)
        how = how or How(command=call_of("resume", {"folder": str(folder), **given}, None))
        return _train(grown(configs, lengths, seeds, more), folder, how)


def load_run(folder: str | Path, *, trust_code: bool = False, **objects: Any) -> Run:
    """A run out of its folder; of one that has not ended, as of its newest checkpoints.

    Args:
        folder: of the run.
        trust_code: run the Python files that the folder holds, though their originals are gone.
        **objects: what the run was made of and no file holds, by the names of settings:
            `cell=Leaky`.

    Raises:
        UserError: if there is nothing to read, or an object is missing or another.
    """
    from srn_jax.runs.networks import open_run

    check("trust_code", trust_code, bool)
    folder = run_folder(folder).absolute()  # whatever the working directory becomes
    return Run(open_run(folder, objects=objects, trust_code=trust_code))


def compare(
    runs: Mapping[str, Run | str | Path] | Iterable[Run | str | Path],
    baseline: str | None = None,
    folder: str | Path | None = None,
    look: "Look | None" = None,
) -> "pd.DataFrame":
    """Compare runs, seed by seed.

    Args:
        runs: or their folders, by the names under which they are shown, or a list of them.
        baseline: the name of the run that others are compared with; None for the first.
        folder: where figures, tables and a page are written; None writes nothing.
        look: of the figures.

    Returns:
        A row for each run and length: means, differences and their intervals.

    Raises:
        UserError: for no runs, names that cannot be shown, or no such baseline.
    """
    return comparison_of(runs, baseline, folder, look)[0].frame


def comparison_of(
    runs: Any, baseline: str | None = None, folder: Any = None, look: Any = None
) -> tuple[Any, list[Path]]:
    """The comparison that `compare` is about, and the files that it wrote."""
    if isinstance(runs, str | os.PathLike | Run) or not isinstance(runs, Iterable):
        raise UserError(f"`runs` must be several runs, or by their names, got {shown(runs)}")
    named = dict(runs) if isinstance(runs, Mapping) else _named(list(runs))
    if not named:
        raise UserError("there is no run to compare, give at least one")
    for name in named:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise UserError(f"the name of a run must be one line of text, got {shown(name)}")
    if baseline is not None and baseline not in named:
        raise UserError(f"`baseline` must be one of {', '.join(named)}, got {shown(baseline)}")
    from srn_jax.analysis.report import comparison
    from srn_jax.naming import check_comparison_place

    where = None if folder is None else path_from("folder", folder)
    if where is not None:
        check_comparison_place(where)
    loaded = {name: one if isinstance(one, Run) else load_run(one) for name, one in named.items()}
    found = comparison({name: run.stored.record for name, run in loaded.items()}, baseline)
    return found, [] if where is None else found.write(where, look or _look())


def _named(runs: list[Any]) -> dict[str, Any]:
    """Runs by the last part of their folders, or all of it where that is not enough."""
    paths = [run.folder if isinstance(run, Run) else run_folder(run) for run in runs]
    whole = [f"run {n}" if path is None else str(path) for n, path in enumerate(paths, 1)]
    real = [path.resolve() for path in paths if path is not None]
    if twice := {str(path) for path in real if real.count(path) > 1}:
        raise UserError(f"{min(twice)} is given more than once, expected different runs")
    short = [whole[n] if path is None else path.resolve().name for n, path in enumerate(paths)]
    return dict(zip(short if len(set(short)) == len(short) else whole, runs, strict=True))


def _look() -> Any:
    from srn_jax.analysis.look import Look

    return Look()


def configs_of(
    lengths: Any = None,
    seeds: Any = None,
    data: Any = None,
    probes: Any = (),
    every_loss: bool = False,
    **settings: Any,
) -> list[SweepConfig]:
    """The variants that the arguments of `train` describe; raises `UserError` as it does."""
    check_names(settings)
    if settings.get("steps") is not None and "epochs" in settings:
        raise UserError("`steps` and `epochs` both say how long to train, give one of them")
    files = None if data is None else path_from("data", data)
    if files is not None and "multiplicity" in settings:
        raise UserError("`multiplicity` is for drawn data, leave it out with `data`")
    check("every_loss", every_loss, bool)
    if files is not None and lengths is None:
        from srn_jax.interop.textbook_files import lengths_in

        lengths = lengths_in(files)
    sweep = SweepConfig(
        lengths=several(TEXTBOOK_LENGTHS if lengths is None else lengths),
        seeds=seeds_of(8 if seeds is None else seeds),
        probes=tuple(named("probes", value) for value in several(probes)),
        every_loss=every_loss,
    )
    configs = [replace(sweep, experiment=each) for each in variants_of({}, settings)]
    if files is None:
        return configs
    from srn_jax.interop.textbook_files import read_data

    folder, _ = read_data(str(files), sweep.lengths)  # what is wrong with it should show now
    return [replace(config, data=folder) for config in configs]


def variants_of(base: Mapping[str, Any], settings: Mapping[str, Any]) -> list[ExperimentConfig]:
    """An experiment for each combination of values; raises `UserError` for a value given twice."""
    values = {name: [named(name, v) for v in several(given)] for name, given in settings.items()}
    for name, each in values.items():
        if not each:
            raise UserError(f"`{name}` is empty, expected at least one value")
        if any(each.count(value) > 1 for value in each):
            raise UserError(f"`{name}` has a value more than once")
    return [
        ExperimentConfig(**{**base, **dict(zip(values, one, strict=True))})
        for one in itertools.product(*values.values())
    ]


def grown(
    configs: list[SweepConfig], lengths: Any, seeds: Any, more: Mapping[str, Any]
) -> list[SweepConfig]:
    """The variants of a run and what shall be added; raises `UserError` for what adds nothing."""
    check_names(more)
    first = configs[0]
    all_lengths, all_seeds = first.lengths, first.seeds
    if lengths is not None:
        all_lengths = tuple(dict.fromkeys((*all_lengths, *several(lengths))))
    if seeds is not None:
        wanted = seeds_of(seeds, all_seeds[0])
        if set(wanted) < set(all_seeds):
            raise UserError(
                f"`seeds` {shown(plain(seeds))}: the run has {len(all_seeds)} already, give a "
                "number that adds to them"
            )
        all_seeds = tuple(dict.fromkeys((*all_seeds, *wanted)))
    experiments = [config.experiment for config in configs]
    if more:
        for config in list(experiments):
            base = {name: getattr(config, name) for name in SETTINGS}
            experiments += [e for e in variants_of(base, more) if e not in experiments]
    data = first.data
    if data is not None and all_lengths != first.lengths:
        from srn_jax.interop.textbook_files import read_data

        data, _ = read_data(data.path, all_lengths)
    sweep = replace(first, lengths=all_lengths, seeds=all_seeds, data=data)
    return [replace(sweep, experiment=each) for each in experiments]


def check_names(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` for a setting that there is not, with the one that may have been meant."""
    for name in settings:
        if name not in SETTINGS:
            meant = closest(name, SETTINGS)
            hint = f"did you mean `{meant}`?" if meant else f"expected one of {', '.join(SETTINGS)}"
            raise UserError(f"no setting {name!r}, {hint}")


def named(setting: str, value: Any) -> Any:
    """The value of a setting: a name for an object that has one, or the object."""
    if isinstance(value, str | bool | int | float | None):
        return value
    if setting == "cell":
        from srn_jax.cells import BY_NAME
    elif setting == "task":
        from srn_jax.tasks import BY_NAME
    else:
        BY_NAME = {}
    return name_of(value, BY_NAME)


def seeds_of(seeds: Any, first: int = 0) -> tuple[Any, ...]:
    """So many seeds, or those that are named."""
    seeds = plain(seeds)
    if isinstance(seeds, int):  # before they are counted out
        check("seeds", seeds, int, low=1, high=1_000_000)
        return tuple(range(first, first + seeds))
    return several(seeds)


def several(values: Any) -> tuple[Any, ...]:
    """One value or several as a tuple; a text is one, and so is an object."""
    values = plain(values)
    if isinstance(values, tuple) and hasattr(values, "_fields"):  # as an optax optimizer is
        return (values,)
    listed = isinstance(values, list | tuple | range | set | frozenset)
    if listed or (hasattr(values, "tolist") and getattr(values, "ndim", 0) == 1):
        return tuple(map(plain, values))
    return tuple(map(plain, values)) if isinstance(values, Iterator) else (values,)


def plain(value: Any) -> Any:
    """A number of NumPy's or JAX's as one of Python's, anything else as it is.

    Of a float of another precision it is the shortest decimal that means it: 0.01 for
    `np.float32(0.01)`, whose value is 0.009999999776482582.
    """
    if not hasattr(value, "dtype") or getattr(value, "ndim", 1) or isinstance(value, type):
        return value
    import numpy as np

    scalar: Any = np.asarray(value)[()]
    decimal = isinstance(scalar, np.floating)
    return float(np.format_float_scientific(scalar)) if decimal else scalar.item()


@contextmanager
def alone() -> Iterator[None]:
    """Let one run train at a time; raises `UserError` inside of another, or beside it."""
    if not TRAINING.acquire(blocking=False):
        raise UserError(
            "a run is being trained in this process already: wait until it has ended (a file of "
            'yours that trains when it is loaded needs `if __name__ == "__main__":`)'
        )
    try:
        yield
    finally:
        TRAINING.release()


def call_of(name: str, given: Mapping[str, Any], folder: Any) -> str:
    """A call as a command that can be pasted into a terminal; objects by their names."""
    told = {**given, **({} if folder is None else {"folder": str(folder)})}

    def said(value: Any) -> str:
        values = several(value)
        each = [
            repr(v if isinstance(v, str | bool | int | float | None) else describe(v))
            for v in values
        ]
        return each[0] if len(values) == 1 else f"[{', '.join(each)}]"

    arguments = ", ".join(f"{key}={said(value)}" for key, value in told.items())
    return shlex.join(["python", "-c", f"import srn_jax; srn_jax.{name}({arguments})"])


def _train(configs: list[SweepConfig], folder: Path | None, how: How) -> Run:
    """Train variants, or what is left of them, and write the report; the caller is `alone`."""
    from srn_jax.phases import Phases
    from srn_jax.runs import devices

    phases = Phases()
    if folder is not None:
        import_module("srn_jax.runs.folder").check_place(folder)
    with phases("devices"):
        devices.start(how.platform, how.cpu_devices)
    with phases("imports"):
        import jax

        from srn_jax.runs.progress import closing_lines, reporter_for
        from srn_jax.runs.train import Interrupted, RunOptions, train_run
        from srn_jax.runs.trial import try_out
    for config in configs:
        try_out(config, how.kernel)
    first = jax.process_index() == 0
    if folder is not None and first:
        point_to_newest(folder)
    drawing = threading.Thread(target=load_drawing)
    drawing.start()  # beside the first compilation
    options = RunOptions(how.overwrite, how.checkpoint_every, how.chunk, how.kernel, how.command)
    with reporter_for(configs, how.textbook) as reporter:
        try:
            stored = train_run(configs, folder, reporter, options, phases)
        except Interrupted as stop:
            raise Stopped(stop.signal, folder) from None
        finally:
            drawing.join()
    run = Run(stored)
    if first and folder is not None:
        run.report(phases=phases)
    for line in closing_lines(stored.record) if how.textbook and first else ():
        reporter.say(line)
    return run


class Stopped(KeyboardInterrupt):
    """A run was asked to stop and has saved what it had; the same call goes on.

    `signal` is what asked, and `folder` the run's.
    """

    def __init__(self, signal: int, folder: Path | None):
        super().__init__("stopped and saved, the same call goes on")
        self.signal, self.folder = signal, folder


def load_drawing() -> None:
    """Load what draws and writes the report, which takes a second."""
    import_module("srn_jax.analysis.report")
    import_module("srn_jax.analysis.figures")
