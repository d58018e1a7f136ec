"""Time this project beside PyTorch, Flax and a plain scan, on the same experiment.

python scripts/benchmark.py --platform cpu --whole-process
python scripts/benchmark.py --estimate tpu-v5e
"""

import json
from dataclasses import replace
from pathlib import Path

from srn_jax.cli import options as cli
from srn_jax.config import option_name
from srn_jax.errors import UserError
from srn_jax.runs.folder import check_place, make_folder

MEASURING = ("platform", "cells", "quick", "whole_process")  # what --estimate has no use for


def main(arguments: list[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--platform", choices=("cpu", "gpu"), help="where to run [cpu]")
    parser.add_argument("--cells", nargs="+", choices=("srn", "lstm", "gru"), help="which [srn]")
    parser.add_argument("--quick", action="store_true", help="fewer steps and seeds, a rough look")
    parser.add_argument(
        "--whole-process", action="store_true", help="time scripts/sweep.py --seeds 1 as well"
    )
    parser.add_argument(
        "--out",
        type=cli.path,
        metavar="DIR",
        default="runs/benchmark",
        help="for the JSON file and the figure",
    )
    parser.add_argument(
        "--estimate",
        choices=("tpu-v5e", "tpu-v6e", "gpu-h100"),
        help="measure nothing: what this device would take, by its compiler alone",
    )
    parser.add_argument(
        "--kernel", action="store_true", help="with --estimate gpu-h100: train by the kernels"
    )
    parser.add_argument("--contender", metavar="NAME", help="measure this one alone, here")
    parser.add_argument("--job", metavar="JSON", default="{}", help="what, for --contender")
    options = parser.parse_args(arguments)
    from benchmark import report
    from benchmark.measure import Job

    if options.contender is not None:
        try:
            job = Job(**json.loads(options.job))
            job = replace(job, lengths=tuple(job.lengths))
            job.check()
        except (TypeError, ValueError) as error:
            raise UserError(f"--job: not a job ({error})") from None
        report.answer(options.contender, job)
        return
    if options.job != "{}":
        raise UserError("--job is for --contender, add that or leave it out")
    if options.kernel and options.estimate != "gpu-h100":
        raise UserError("--kernel is for GPUs, add --estimate gpu-h100 or leave it out")
    given = [name for name in MEASURING if getattr(options, name)]
    if options.estimate is not None and given:
        raise UserError(f"--estimate measures nothing, leave out {option_name(given[0])}")
    platform, cells = options.platform or "cpu", options.cells or ["srn"]
    if len(set(cells)) < len(cells):
        raise UserError("--cells has a value more than once")
    check_place(Path(options.out))
    if options.estimate is not None:
        from benchmark import estimate

        estimate.run(options.estimate, Path(options.out), options.kernel)
        return
    if platform == "gpu":
        report.check_gpu()
    make_folder(Path(options.out))  # before it measures for half an hour
    measured = report.run_all(platform, options.quick, options.whole_process, cells)
    print("\nwritten:", *report.write(measured, Path(options.out)), sep="\n  ")


if __name__ == "__main__":
    cli.run_script(main)
