"""More seeds to a finished run: the new ones are trained alone and joined to the old ones.

An experiment depends on its own seed and length alone, so what comes out is the run that all seeds
together would have been. It has a folder of its own, and the old run is only read: whatever stops
this, nothing is lost, and the same command goes on.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from srn_jax.config import SweepConfig
from srn_jax.errors import UserError
from srn_jax.runs import checkpoint
from srn_jax.runs import folder as run_folder
from srn_jax.runs.group import Member, run_group
from srn_jax.runs.loop import Reporter, RunOptions
from srn_jax.runs.origin import as_begun
from srn_jax.runs.provenance import places_of, went_on
from srn_jax.runs.restore import read_data_of
from srn_jax.runs.settings import settings_of


def add_seeds(
    run: Path, config: SweepConfig, folder: Path, reporter: Reporter, options: RunOptions
) -> None:
    """Train the seeds that a finished run lacks, and begin another run with all of them.

    Args:
        run: folder of the finished run.
        config: the same sweep with more seeds, of `folder.with_seeds`.
        folder: of the other run, which then has a checkpoint of all its training.
        reporter: told about progress.
        options: how to carry it out.

    Raises:
        UserError, OSError, Interrupted: as `run_group`.
    """
    read_data_of(config)  # what is wrong with its data leaves no folder behind
    info, settings = run_folder.read_run(run), settings_of(config)
    begun: dict[str, Any] = {"settings": settings, "command": options.command, "finished": False}
    new = folder / run_folder.NEW_SEEDS_FOLDER
    run_folder.make_folder(folder)
    with run_folder.locked(folder):
        if not run_folder.check_folder(folder, settings):
            write_run(folder, info | begun)
            run_folder.keep_own_files(folder, config)
        if not checkpoint.blocks_in(folder):
            old = run_folder.config_in(run, info["settings"])
            added = replace(config, seeds=config.seeds[len(old.seeds) :])
            more = f"{len(added.seeds)} more seed{'s' * (len(added.seeds) > 1)}"
            reporter.say(f"{run} stays as it is; it and {more} are the run in {folder}")
            options = as_begun(options, [run_folder.OpenRun(run, old, info)], reporter)
            run_group([Member(new, added)], reporter, options)
            parts = [checkpoint.restore(path, reporter.warn) for path in (run, new)]
            found = [part for part in parts if part is not None]
            if len({part.block for part in found}) != 1 or len(found) < 2:
                raise UserError(f"{run}: its last checkpoint is missing or damaged")
            later = run_folder.read_run(new)
            begun["seconds"] = info["seconds"] + later["seconds"]
            if places := went_on(info, places_of(later)):
                begun["went_on"] = places
            write_run(folder, info | begun)
            items = joined(len(config.lengths), *(part.items for part in found))
            checkpoint.write(folder, found[0].block, items, settings)
        shutil.rmtree(new, ignore_errors=True)


def write_run(folder: Path, info: dict[str, Any]) -> None:
    """Write the run file of a run without results, of what another's file says."""
    of_results = ("files", "task", "sha256")
    run_folder.write_run(folder, {k: v for k, v in info.items() if k not in of_results})


def joined(lengths: int, *parts: Any) -> Any:
    """Nested dictionaries of arrays `[experiment, ...]` as one; seeds are the inner of the two."""
    if isinstance(parts[0], dict):
        return {name: joined(lengths, *(part[name] for part in parts)) for name in parts[0]}
    by_length = [array.reshape(lengths, -1, *array.shape[1:]) for array in map(np.asarray, parts)]
    return np.concatenate(by_length, axis=1).reshape(-1, *parts[0].shape[1:])
