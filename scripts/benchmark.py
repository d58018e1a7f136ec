"""Time this project beside PyTorch, Flax and a plain scan, on the same experiment.

python scripts/benchmark.py --platform cpu --cells srn lstm gru --out runs/benchmark.json
python scripts/benchmark.py --whole-process
python scripts/benchmark.py --estimate tpu-v5e
"""

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from srn_jax.cli import options as cli
from srn_jax.runs.place import processor


def main(arguments: list[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu", help="where [cpu]")
    cells = {"nargs": "+", "choices": ("srn", "lstm", "gru"), "default": ["srn"]}
    parser.add_argument("--cells", **cells, help="which [srn]")
    parser.add_argument("--quick", action="store_true", help="fewer steps and seeds, a rough look")
    parser.add_argument("--whole-process", action="store_true", help="of sweep.py --seeds 1 alone")
    parser.add_argument("--out", type=cli.path, metavar="FILE", help="write what was measured, too")
    targets = ("tpu-v5e", "tpu-v6e", "gpu-h100")
    parser.add_argument("--estimate", choices=targets, help="measure nothing: ask its compiler")
    parser.add_argument("--job", type=json.loads, metavar="JSON", help="measure this in here")
    options = parser.parse_args(arguments)
    from benchmark import measure, report

    if options.job is not None:
        print("\n" + json.dumps(measure.measure(measure.Job(**options.job))))
        return
    if options.estimate is not None:
        from benchmark import estimate

        estimate.run(options.estimate)
        return
    names = ("jax", "jaxlib", "flax", "optax", "torch")
    versions = {name: version(name) for name in names if find_spec(name) is not None}
    found = {"machine": {"processor": processor(), "versions": versions}}
    print(f"{found['machine']}\n", flush=True)
    if options.whole_process:
        found["whole_process"] = report.whole_process(options.platform)
        print(report.whole_table(found["whole_process"]))
    else:
        jobs = report.plan(options.platform, options.quick, options.cells)
        once = options.quick or options.platform == "gpu"  # whose steps take the same every time
        found["contenders"] = report.measure_in_turns(jobs, rounds=1 if once else 3)
        for cell in dict.fromkeys(options.cells):
            own = [one for one in found["contenders"] if one["cell"] == cell]
            print(f"\n{cell}\n{report.contenders_table(own)}", flush=True)
    if options.out is not None:
        Path(options.out).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    cli.run_script(main)
