"""What runs say, in tables and pages: for the terminal, and as files with their figures.

A page is one template that is written twice, as Markdown and as HTML with the figures inside. What
does not exist is shown as `-`.
"""

import base64
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from srn_jax.analysis.figures import Drawing, figures_of, figures_of_several
from srn_jax.analysis.look import DEFAULT_LOOK, Look, files_of, write_figure
from srn_jax.analysis.records import (
    LOG_FILE,
    SEQUENCES,
    Histories,
    Record,
    Variant,
    log_text,
    loss_stride,
    parts_of,
    setting_text,
)
from srn_jax.analysis.stats import (
    EXPLOSION,
    THRESHOLD,
    Estimate,
    compare,
    estimate_in,
    explosions,
    memory_span,
    score_of,
    summarise,
    unscored,
)
from srn_jax.errors import UserError
from srn_jax.files import check_plain, write_atomically

WIDTH = 80  # characters of a terminal
MOST_LISTED = 20
MUCH_SEEN = 0.05  # mean share of a test set in its training set that a table does not pass over
OURS = ("figures", "tables", "report.md", "report.html", LOG_FILE)
IMAGES = {"png": "image/png", "svg": "image/svg+xml"}
Cells = list[list[str]]


def results_cells(variant: Variant) -> Cells:
    """The header and a row for each length, shortest first; some columns only where they say more.

    They are `error` where the loss decides, `all right` of several answers, `seen in training`
    where that is much, and `diverged`.
    """
    table, facts = summarise(variant.results), variant.facts
    seen = seen_shares(variant)
    more = {
        "error": facts.better == "loss",
        "all right": SEQUENCES in variant.results,
        "seen in training": any(share > MUCH_SEEN for share in seen),
        "diverged": bool(variant.results["diverged"].any()),
    }
    head = ["length", "seeds", "test accuracy", "sd", "best dev"]
    cells = [[*head, *(name for name, shown in more.items() if shown)]]
    for row, share in zip(table.to_dict("records"), seen, strict=True):
        found = {
            "error": f"{estimate_in(row, 'test_loss'):.3f}",
            "all right": f"{estimate_in(row, SEQUENCES):.3f}"
            if SEQUENCES in variant.results
            else "",
            "seen in training": "-" if math.isnan(share) else f"{100 * share:.0f} %",
            "diverged": str(row["diverged"]),
        }
        told = [str(row["length"]), scored_seeds(row), f"{estimate_in(row, 'test_accuracy'):.3f}"]
        told += [f"{Estimate(row[name]):.3f}" for name in ("deviation", "best_dev_accuracy")]
        cells.append([*told, *(found[name] for name, shown in more.items() if shown)])
    return cells


def scored_seeds(row: Mapping[str, Any]) -> str:
    """How many seeds a mean is over: `32`, or `31 of 32` where one diverged without a score."""
    return " of ".join(dict.fromkeys([str(row["scored"]), str(row["seeds"])]))


def seen_shares(variant: Variant) -> list[float]:
    """The mean share of the test set in the training set at each length; NaN if not known."""
    size = variant.facts.test_examples or math.nan
    means = variant.results.groupby("length")["overlap"].mean()
    return [math.nan if pd.isna(mean) else float(mean) / size for mean in means]


def seed_cells(variant: Variant) -> Cells:
    """How single seeds scatter at each length, and how far their train and test sets overlap."""
    size = variant.facts.test_examples
    cells = [["length", "median", "5 % to 95 % of seeds", f"share above {THRESHOLD:g}"]]
    cells[0].append("test examples in train")
    for row in summarise(variant.results).to_dict("records"):
        low, high = (f"{Estimate(row[f'spread_{end}']):.3f}" for end in ("low", "high"))
        told = [str(row["length"]), f"{Estimate(row['median']):.3f}"]
        told += ["-" if low == "-" else f"{low} to {high}"]
        told += [f"{estimate_in(row, 'share_above'):.3f}"]
        ends = [row["overlap_low"], row["overlap_high"]]
        known = not any(pd.isna(end) for end in ends)
        overlap = "..".join(dict.fromkeys(map(str, ends))) + (f" of {size}" if size else "")
        cells.append([*told, overlap if known else "-"])
    return cells


def explosion_cells(variant: Variant, name: str | None = None) -> Cells:
    """A row a length, if the run recorded gradient norms; `name` makes a column before them."""
    found = explosions(variant.histories, variant.results).to_dict("records")
    before = [] if name is None else [name]
    rows = []
    for row in found:
        shares = [f"{estimate_in(row, kind):.3f}" for kind in ("exploded", "dead")]
        rows.append([*before, str(row["length"]), str(row["seeds"]), *shares])
    head = ["length", "seeds", "exploded", "dead"]
    return [["variant", *head] if before else head, *rows] if rows else []


def span_text(variant: Variant) -> str:
    """The memory span in words; there is none where chance reaches the threshold."""
    span, chance = memory_span(variant.results), variant.facts.chance
    if chance >= span.threshold:
        return f"memory span: none, since chance, {chance:.2f}, reaches {span.threshold:g}"
    return f"memory span (mean test accuracy above {span.threshold:g}): {span:.1f}"


def unscored_text(results: pd.DataFrame) -> str:
    """How many experiments have nothing to be scored, though they did not diverge; or nothing."""
    if not (number := unscored(results)):
        return ""
    words = "Without a right answer in any evaluation, so without best parameters and scores"
    return f"{words}: {number} of {len(results)} experiments."


def plain_table(cells: Cells) -> str:
    """Header and rows in right-aligned columns, a line of dashes between; no trailing newline."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def listed(values: Iterable[Any]) -> str:
    """Comma-separated values; `0..31` for a run of whole numbers, the first few of very many."""
    values = list(values)
    whole = len(values) > 2 and all(isinstance(value, (int, np.integer)) for value in values)
    if whole and values == list(range(values[0], values[0] + len(values))):
        return f"{values[0]}..{values[-1]}"
    text = ", ".join(map(str, values[:MOST_LISTED]))
    return text if len(values) <= MOST_LISTED else f"{text}, ... ({len(values)} in all)"


def wrapped(lines: Iterable[str]) -> list[str]:
    """Lines for the terminal."""
    return [fill(line, WIDTH, subsequent_indent="  ", break_long_words=False) for line in lines]


def closing_text(record: Record) -> str:
    """What a run ends with: the table, the memory span, and what went wrong."""
    results = record.results
    if len(record.variants) > 1:
        text = compared(record).table
    else:
        (variant,) = record.variants
        text = f"{plain_table(results_cells(variant))}\n\n{wrapped([span_text(variant)])[0]}"
    notes = [unscored_text(results)]
    if diverged := results["diverged"].sum():
        notes.insert(0, f"{diverged} of {len(results)} experiments diverged")
    return "\n".join([text, *wrapped(filter(None, notes))])


@dataclass(frozen=True)
class Comparison:
    """Variants by the names under which they are shown, one of them the baseline."""

    variants: Mapping[str, Variant]
    baseline: str
    frame: pd.DataFrame  # of `stats.compare`
    unfinished: tuple[str, ...] = ()  # names of runs

    @property
    def cells(self) -> Cells:
        """The header, and each length of each variant."""
        score = score_of([*self.variants.values()])
        shown = "error" if score == "test_loss" else "test accuracy"
        cells = [["length", "variant", "seeds", shown, "difference", "p"]]
        for row in self.frame.to_dict("records"):
            told = [str(row["length"]), row["variant"], scored_seeds(row)]
            told += [f"{estimate_in(row, score):.3f}", f"{estimate_in(row, 'difference'):+.3f}"]
            p_value = row["corrected_p_value"]
            cells.append([*told, "<0.001" if p_value < 0.001 else f"{Estimate(p_value):.3f}"])
        return cells

    @property
    def pairs(self) -> int:
        """The most pairs of any difference."""
        return int(self.frame["pairs"].max())

    @property
    def settings(self) -> list[str]:
        """In what each variant differs from the others, in settings, data and own files."""
        known = [
            {**v.settings, **{n: d[:12] for n, d in v.own.items()}} for v in self.variants.values()
        ]
        if all(len({setting_text(one.get(n)) for one in known}) == 1 for n in known[0] | known[-1]):
            return [f"{name}: no setting differs" for name in self.variants]
        told = [
            ", ".join(f"{n} {setting_text(v)}" for n, v in one.items()) for one in parts_of(known)
        ]
        return [f"{name}: {text}" for name, text in zip(self.variants, told, strict=True)]

    @property
    def notes(self) -> list[str]:
        """What could not be paired, what p cannot say, and the memory span of each variant."""
        notes = [
            f"{name} has not finished: it is shown as of its newest checkpoints."
            for name in self.unfinished
        ]
        paired = self.frame[self.frame["pairs"] > 0].groupby("variant")["pairs"]
        least = [min(1.0, len(pairs) * 2 / 2 ** pairs.max()) for _, pairs in paired]
        if least and min(least) > 0.05 and self.pairs > 1:  # one alone is not tested
            notes.append(f"With {self.pairs} pairs at most, no p can be below {min(least):.3f}.")
        base = self.variants[self.baseline]
        for name, variant in self.variants.items():
            shared = np.intersect1d(variant.results["length"], base.results["length"]).tolist()
            others = [length for length in shared if not variant.same_data(base, length)]
            where = f"at length {listed(others)}: it is not paired there"
            where = "nothing is paired" if others == shared else where
            if others:
                notes.append(f"{name} was trained on other data than {self.baseline}: {where}.")
        return notes + [f"{name}: {span_text(one)}." for name, one in self.variants.items()]

    @property
    def table(self) -> str:
        """All of it for the terminal."""
        pairing = (
            [f"Differences are from {self.baseline}, paired by seed; p is Holm's."]
            if self.pairs
            else []
        )
        lines = [*wrapped(self.settings), "", plain_table(self.cells), ""]
        return "\n".join([*lines, *wrapped([*pairing, *self.notes])])

    def write(self, folder: Path, look: Look = DEFAULT_LOOK) -> list[Path]:
        """Write figures, tables and pages into a folder; returns the files."""
        folder.mkdir(parents=True, exist_ok=True)
        check_plain(
            folder, ("figures", *(f"comparison.{kind}" for kind in ("md", "html", "tex", "csv")))
        )
        pictures = Pictures(folder, look)
        shown = pictures.draw(figures_of_several(self.variants, look))
        exploded = [explosion_cells(variant, name) for name, variant in self.variants.items()]
        cells = [
            *next(filter(None, exploded), []),
            *(row for one in exploded[1:] for row in one[1:]),
        ]
        values = {"found": self, "told": self.settings, "pictures": shown, "explosions": cells}
        paths = write_pages(folder / "comparison", "comparison", "Comparison of runs", values)
        paths += write_tables(folder / "comparison", self.cells, self.frame)
        pictures.complain()
        return [*paths, *pictures.paths]


def comparison(records: Mapping[str, Record], baseline: str | None = None) -> Comparison:
    """Compare runs by name, and the variants in them, with one of them; the first if none is named.

    Raises `UserError` if the baseline is none of them.
    """
    variants = {}
    for name, record in records.items():
        for variant in record.variants:
            single = len(record.variants) == 1
            variants[name if single else f"{name}: {variant.label}"] = variant
    chosen = next(iter(variants)) if baseline is None else baseline
    if chosen not in variants:
        raise UserError(f"`baseline` must be one of {', '.join(variants)}, got {chosen}")
    going_on = tuple(name for name, record in records.items() if not record.finished)
    return Comparison(variants, chosen, compare(variants, chosen), going_on)


def compared(record: Record) -> Comparison:
    """The comparison of the variants of a run with the first of them."""
    labels = [variant.label for variant in record.variants]
    names = labels if len(set(labels)) == len(labels) else record.variant_names
    variants = dict(zip(names, record.variants, strict=True))
    return Comparison(variants, names[0], compare(variants, names[0]))


class Pictures:
    """The figures of a page: drawn and written one by one, and kept as what the page shows.

    One that cannot be drawn costs neither the others nor the page; `complain` tells of it.
    """

    def __init__(self, folder: Path, look: Look):
        self.folder, self.look = folder, look
        self.paths: list[Path] = []
        self.failed: list[str] = []

    def draw(self, drawings: Mapping[str, Drawing], under: str = "") -> list[dict[str, str | None]]:
        """Draw figures into a folder in `figures`; returns what a template shows of each."""
        place = self.folder / "figures" / under
        place.mkdir(parents=True, exist_ok=True)
        shown = []
        for name, drawing in drawings.items():
            try:
                files = files_of(drawing.draw(), self.look)
            except Exception as error:  # Matplotlib fails in many ways
                self.failed.append(
                    f"{name}: {' '.join(f'{type(error).__name__}: {error}'.split())}"
                )
                continue
            self.paths += write_figure(files, place / name)
            shown.append(self.shown(name, drawing.caption, place, files))
        return shown

    def gates(self, under: str = "") -> list[dict[str, str | None]]:
        """Figure 6.13, which takes JAX to draw, as it was drawn before."""
        place, found = self.folder / "figures" / under, {}
        for path in sorted(place.glob("6.13_*.*")):
            if (kind := path.suffix[1:]) in (*IMAGES, "pdf"):
                found.setdefault(path.stem, {})[kind] = path.read_bytes()
        words = "as the symbols are read, one row a unit."
        return [self.shown(name, words, place, files) for name, files in found.items()]

    def shown(
        self, name: str, caption: str, place: Path, files: Mapping[str, bytes]
    ) -> dict[str, str | None]:
        """What a template shows of a figure: it in it, if it is an image, and where it is."""
        kind = next((kind for kind in (*IMAGES, *files) if kind in files))
        link = quote((place / f"{name}.{kind}").relative_to(self.folder).as_posix())
        image = None
        if kind in IMAGES:
            image = f"data:{IMAGES[kind]};base64,{base64.b64encode(files[kind]).decode()}"
        return {"name": name, "caption": caption, "link": link, "image": image}

    def complain(self) -> None:
        """Raise `UserError` if a figure could not be drawn."""
        if self.failed:
            told = f"{len(self.failed)} figures could not be drawn ({self.failed[0]})"
            raise UserError(f"{told}; the results and the report are safe")


def write_report(
    record: Record,
    folder: Path,
    look: Look = DEFAULT_LOOK,
    phases: Callable[[str], AbstractContextManager[None]] | None = None,
) -> list[Path]:
    """Write figures, tables, log and report of a run into a folder; returns the files.

    Of several variants it compares them, and each has folders of its own for figures and tables.

    Raises:
        UserError: for a link in the place of a file, or a figure that could not be drawn; all the
            rest is written then.
    """
    timed = phases or (lambda _: nullcontext())
    folder.mkdir(parents=True, exist_ok=True)
    check_plain(folder, OURS)
    single, pictures = len(record.variants) == 1, Pictures(folder, look)
    values, logs, paths = values_of(record), [], []
    with timed("figures"):
        if not single:
            values["pictures"] = pictures.draw(figures_of_several(values["found"].variants, look))
        for part, variant in zip(values["parts"], record.variants, strict=True):
            under = "" if single else variant.name
            drawings, scores = figures_of(variant, look), ("6.7", "accuracy", "error")
            first = {name: one for name, one in drawings.items() if name in scores}
            rest = {name: one for name, one in drawings.items() if name not in scores}
            part["scores"] = pictures.draw(first, under)
            part["training"] = [*pictures.draw(rest, under), *pictures.gates(under)]
    with timed("writing"):
        for part, variant in zip(values["parts"], record.variants, strict=True):
            under = "" if single else variant.name
            stem = folder / "tables" / under / "accuracy"
            paths += write_tables(stem, part["cells"], summarise(variant.results))
            if variant.histories is not None:
                logs.append(
                    log_text(variant.histories)
                    if single
                    else f"= {variant.label}\n{log_text(variant.histories)}"
                )
        if not single:
            found = values["found"]
            paths += write_tables(folder / "tables" / "comparison", found.cells, found.frame)
        paths += write_pages(folder / "report", "report", values["title"], values)
        if logs:
            write_atomically(folder / LOG_FILE, "\n".join(logs).encode())
            paths.append(folder / LOG_FILE)
    pictures.complain()
    return [*paths, *pictures.paths]


def values_of(record: Record) -> dict[str, Any]:
    """What the template of a report is filled in with, but for the figures."""
    results, info, first = record.results, record.info, record.variants[0]
    single = len(record.variants) == 1
    found = None if single else compared(record)
    settings = [variant.settings for variant in record.variants]
    shared = {n: v for n, v in settings[0].items() if all(one.get(n) == v for one in settings)}
    unused = () if first.settings.get("data") is None else ("task", "multiplicity")
    told = {
        "lengths": listed(dict.fromkeys(results["length"])),
        "seeds": listed(dict.fromkeys(results["seed"])),
    }
    told |= {name: setting_text(value) for name, value in shared.items() if name not in unused}
    if "probes" in info:
        told["probes"] = listed(info["probes"]) or "none"
    command = info.get("command")
    return {
        "title": first.facts.title,
        "question": first.facts.question,
        "experiments": len(results),
        "lengths": results["length"].nunique(),
        "seeds": results["seed"].nunique(),
        "diverged": int(results["diverged"].sum()),
        "finished": record.finished,
        "found": found,
        "told": found.settings if found else [],
        "parts": [part_of(variant) for variant in record.variants],
        "settings": [*told.items()] if info else [],
        "run": [*run_lines(info)],
        "command": command
        if isinstance(command, str) or not command
        else shlex.join(map(str, command)),
    }


def part_of(variant: Variant) -> dict[str, Any]:
    """What a report says of one variant."""
    results, facts, histories = variant.results, variant.facts, variant.histories
    span, cells = span_text(variant), results_cells(variant)
    gone = results[results["diverged"]].groupby("length")["seed"]
    size = facts.test_examples
    return {
        "label": variant.label,
        "facts": facts,
        "span": span[0].upper() + span[1:],
        "cells": cells,
        "seed_cells": seed_cells(variant),
        "one_seed": results["seed"].nunique() == 1,
        "standard_error": f"{math.ceil(500 / math.sqrt(size)) / 10:g}" if size else "",
        "several_answers": SEQUENCES in results,
        "seen": "seen in training" in cells[0],
        "unknown_overlap": bool(results["overlap"].isna().any()),
        "diverged": [(length, listed(seeds)) for length, seeds in gone],
        "unscored": unscored_text(results),
        "explosions": explosion_cells(variant),
        "spikes": None if histories is None else spikes_of(variant, histories),
        "scores": [],
        "training": [],
    }


def spikes_of(variant: Variant, histories: Histories) -> dict[str, Any] | None:
    """What the regular spikes in figures of losses come from, where there are any."""
    epoch, stride = histories.steps_an_epoch, loss_stride(histories.steps)
    period = math.lcm(stride, epoch)
    if stride == 1 or epoch == 1 or period >= histories.steps:
        return None
    fresh = bool(variant.settings.get("fresh_data"))
    return {"stride": stride, "epoch": epoch, "period": period, "fresh": fresh}


def run_lines(info: Mapping[str, Any]) -> Iterable[str]:
    """Where, when and with what a run was made, and where its time went."""
    for name in ("device", "processor", "date", "commit"):
        if info.get(name):
            yield f"{name}: {info[name]}"
    if info.get("seconds") is not None:
        yield f"time: {duration(info['seconds'])}"
    phases = info.get("phases") or {}
    if phases:
        yield "of it: " + ", ".join(f"{name} {duration(phases[name])}" for name in phases)
    for name, version in (info.get("versions") or {}).items():
        yield f"{name}: {version}"
    for place in info.get("went_on", ()):
        yield "went on: " + setting_text(place)


def duration(seconds: float) -> str:
    """`1 h 02 min`, `2 min 03 s` or `4.5 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


@cache
def templates(kind: str) -> Environment:
    """The templates of pages, for Markdown (`md`) or `html`, where all that is put in is escaped."""
    loader = FileSystemLoader(Path(__file__).with_name("templates"), encoding="utf-8")
    layout = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    return Environment(loader=loader, autoescape=kind == "html", **layout)


def write_pages(stem: Path, template: str, title: str, values: Mapping[str, Any]) -> list[Path]:
    """Write a page as Markdown, and as HTML that needs nothing else; returns both paths."""
    paths = []
    for kind in ("md", "html"):
        environment = templates(kind)
        filled = {**values, "kind": kind, "title": title, "limit": EXPLOSION}
        text = environment.get_template(f"{template}.j2").render(filled)
        if kind == "html":
            text = environment.get_template("page.html.j2").render(title=title, body=Markup(text))
        else:
            text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
        paths.append(stem.with_name(f"{stem.name}.{kind}"))
        write_atomically(paths[-1], text.encode())
    return paths


def write_tables(stem: Path, cells: Cells, frame: pd.DataFrame) -> list[Path]:
    """Write a table as LaTeX, as it is shown, and as CSV, with everything in full precision."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    shown = pd.DataFrame(cells[1:], columns=cells[0])
    latex = shown.to_latex(index=False, escape=True, column_format="r" * len(cells[0]))
    files = {"tex": latex, "csv": frame.to_csv(index=False, lineterminator="\n")}
    for kind, text in files.items():
        write_atomically(stem.with_name(f"{stem.name}.{kind}"), text.encode())
    return [stem.with_name(f"{stem.name}.{kind}") for kind in files]
