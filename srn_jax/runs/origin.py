"""How and where a run began, kept in its run file for those who go on with it."""

import dataclasses
from collections.abc import Sequence

import jax

from srn_jax.runs.folder import OpenRun
from srn_jax.runs.loop import Reporter, RunOptions
from srn_jax.runs.provenance import changes, places_of, provenance, went_on


def as_begun(options: RunOptions, runs: Sequence[OpenRun], reporter: Reporter) -> RunOptions:
    """The options with the form of the loops that the runs were begun with, unless one is given.

    Results differ between the forms in their last digits.
    """
    begun = runs[0].info.get("kernel")
    if options.kernel is None:
        return dataclasses.replace(options, kernel=begun)
    on_gpu = jax.default_backend() == "gpu"  # elsewhere None means no kernels
    same = options.kernel == begun or not (options.kernel or begun or on_gpu)
    if not same and any(run.start for run in runs):
        form = "--kernel" if options.kernel else "--no-kernel"
        reporter.warn(f"{runs[0].folder} goes on with {form}, which is not how it began")
    for run in runs:
        run.info["kernel"] = options.kernel
    return options


def note_place(runs: Sequence[OpenRun], block: int, reporter: Reporter) -> None:
    """Keep where runs are trained from a block on, and warn where that can change their results."""
    now = provenance()
    for run in runs:
        places = went_on(run.info, [now])
        if not block:  # nothing was trained anywhere else
            run.info |= now
        elif places != run.info.get("went_on", []):
            if other := changes(places_of(run.info)[-1], now):
                told = "; ".join(other)
                reporter.warn(f"{run.folder} goes on in another place ({told}): other last digits")
            run.write(went_on=places)
