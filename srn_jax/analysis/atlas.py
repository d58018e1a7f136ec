"""The atlas: every cell on every task, as one figure and one table.

A run for each task, whose variants are cells, is all that it needs; it grows as they do.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from srn_jax.analysis.look import DEFAULT_LOOK, Look, save_figure
from srn_jax.analysis.records import Record
from srn_jax.analysis.stats import SHARE, Estimate, columns_of, mean_estimate, memory_span
from srn_jax.files import write_atomically

SHORT = {"clip_norm": 1.0, "clip": "global", "multiplicity": 10, "batch_size": 32, "epochs": 20}
PLAN: dict[str, dict[str, Any]] = {  # of each task what `srn_jax.train` is given beside the cells
    "digit-sum": {"seeds": 32},
    "adding": {"lengths": (20, 50), "seeds": 8, **SHORT},
    "copying": {"lengths": (25, 40), "seeds": 8, **SHORT},
    "selective-copying": {"lengths": (24, 40), "seeds": 8, **SHORT},
    "associative-recall": {"lengths": (16, 32), "seeds": 8, **SHORT},
    "parity": {"lengths": (12, 24), "seeds": 8, **SHORT},
}
CELLS = ("srn", "residual-srn", "irnn", "gru", "lstm", "mingru", "minlstm", "lru")
SPAN = "memory span"
FEWEST_FOR_SPAN = 3  # lengths of a task, or each of them is shown by itself
LIGHT = 0.55  # a shade above this is dark, so its text is light


def atlas_table(records: Mapping[str, Record]) -> pd.DataFrame:
    """A row for each task, measure and cell.

    Columns: `task`; `measure`, "memory span" where a task has many lengths, else "length 20" and so
    on, of the mean test accuracy; `cell`; `seeds`, the fewest of a length; the `score` with
    `score_low` and `score_high`; `text`, the same in words; `chance`, of the accuracy; and `shade`,
    how far the score is from chance (0) to perfect (1), or from the shortest length to the longest.
    """
    rows = []
    for task, record in records.items():
        for variant in record.variants:
            table, chance = variant.results, variant.facts.chance
            lengths = sorted(table["length"].unique().tolist())
            told = {"task": task, "cell": variant.label, "chance": chance}
            told["seeds"] = int(table["length"].value_counts().min())
            if len(lengths) >= FEWEST_FOR_SPAN:
                span = memory_span(table)
                shade = (span.value - lengths[0]) / (lengths[-1] - lengths[0])
                rows.append(told | row_of(SPAN, span, ".0f", shade))
                continue
            for length in lengths:
                scores = table.loc[table["length"] == length, "test_accuracy"]
                found = mean_estimate(scores, SHARE)
                shade = (found.value - chance) / (1 - chance)
                rows.append(told | row_of(f"length {length}", found, ".2f", shade))
    columns = ["task", "measure", "cell", "seeds", "score", "score_low", "score_high", "text"]
    return pd.DataFrame(rows)[[*columns, "chance", "shade"]]


def row_of(measure: str, found: Estimate, form: str, shade: float) -> dict[str, Any]:
    """The part of a row that says how well a cell did."""
    shade = shade if math.isnan(shade) else min(1.0, max(0.0, shade))
    text = format(found, form)
    return {"measure": measure, **columns_of("score", found), "text": text, "shade": shade}


def atlas_figure(table: pd.DataFrame, look: Look = DEFAULT_LOOK) -> Figure:
    """Cells down, tasks across; a field is darker the better, and says the mean and interval."""
    cells = list(dict.fromkeys(table["cell"]))
    columns = list(dict.fromkeys(zip(table["task"], table["measure"], strict=True)))
    shades = np.full((len(cells), len(columns)), np.nan)
    width = 1.2 + 1.15 * len(columns)
    with look.axes(width, (1.2 + 0.42 * len(cells)) / width, type_size=8) as (figure, axes):
        for row in table.to_dict("records"):
            at = cells.index(row["cell"]), columns.index((row["task"], row["measure"]))
            shades[at] = row["shade"]
            value, _, interval = row["text"].partition(" (")
            color = "white" if row["shade"] > LIGHT else "black"
            place: dict[str, Any] = {"ha": "center", "color": color}
            axes.text(at[1], at[0], value, va="bottom" if interval else "center", **place)
            ends = interval.rstrip(")")
            axes.text(at[1], at[0] + 0.06, ends, va="top", fontsize="x-small", **place)
        axes.imshow(shades, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        axes.set(yticks=range(len(cells)), yticklabels=cells, xticks=range(len(columns)))
        axes.set_xticklabels([f"{task}\n{measure}" for task, measure in columns])
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for n, (column, next_one) in enumerate(pairwise(columns)):
            if column[0] != next_one[0]:  # between tasks
                axes.axvline(n + 0.5, color="black", linewidth=0.8)
        axes.set_ylim(len(cells) - 0.5, -0.5)
        axes.set_xlabel("mean over seeds and its 95 % interval; darker is better, white is chance")
    return figure


def write_atlas(
    records: Mapping[str, Record], folder: Path, look: Look = DEFAULT_LOOK
) -> list[Path]:
    """Write `atlas.csv` and the figure into a folder, also of runs that have not ended."""
    table = atlas_table(records)
    path = folder / "atlas.csv"
    write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode())
    return [path, *save_figure(atlas_figure(table, look), folder / "atlas", look)]
