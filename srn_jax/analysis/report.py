"""What runs say, in tables and pages: for the terminal, and as files with their figures.

A page is one template that is written twice, as Markdown and as HTML with the figures inside. What
does not exist is shown as `-`.
"""

import base64
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from srn_jax.analysis import figures, records, stats
from srn_jax.analysis.look import DEFAULT_LOOK, FORMATS, Look, files_of, write_figure
from srn_jax.analysis.records import SEQUENCES, Record, Variant, setting_text
from srn_jax.analysis.stats import ABSENT, THRESHOLD, Estimate, estimate_in, summarise
from srn_jax.errors import UserError
from srn_jax.files import check_plain, write_atomically

WIDTH = 80  # characters of a terminal
MOST_LISTED = 20
MUCH_SEEN = 0.05  # mean share of a test set in its training set that a table does not pass over
IMAGES = {"png": "image/png", "svg": "image/svg+xml"}
TEMPLATES = Path(__file__).with_name("templates")
Row = Mapping[Any, Any]


def estimated(name: str, spec: str = ".3f") -> Callable[[Row], str]:
    """The text of an estimate in a row."""
    return lambda row: format(estimate_in(row, name), spec)


def number(name: str) -> Callable[[Row], str]:
    """The text of a number in a row."""
    return lambda row: f"{Estimate(row[name]):.3f}"


def ends_text(low: Any, high: Any, between: str, spec: str = "") -> str:
    """Two ends of a range, or one if they agree; `-` where they are not known."""
    known = not (pd.isna(low) or pd.isna(high))
    return between.join(dict.fromkeys([f"{low:{spec}}", f"{high:{spec}}"])) if known else ABSENT


def overlap_text(row: Row) -> str:
    """How many test examples are in the training set too, over seeds: `8..18 of 100`."""
    text = ends_text(row["overlap_low"], row["overlap_high"], "..")
    return f"{text} of {row['examples']}" if row["examples"] and text != ABSENT else text


# What stands in a row of a table, of those of `stats`, below each head.
COLUMNS: dict[str, Callable[[Row], str]] = {
    "length": lambda row: str(row["length"]),
    "variant": lambda row: str(row["variant"]),
    "seeds": lambda row: " of ".join(dict.fromkeys([str(row["scored"]), str(row["seeds"])])),
    "test accuracy": estimated("test_accuracy"),
    "error": estimated("test_loss"),
    "all right": estimated(SEQUENCES),
    "sd": number("deviation"),
    "best dev": number("best_dev_accuracy"),
    "seen in training": lambda row: (
        ABSENT if pd.isna(row["seen"]) else f"{row['seen'] * 100:.0f} %"
    ),
    "diverged": lambda row: str(row["diverged"]),
    "median": number("median"),
    "5 % to 95 % of seeds": lambda row: ends_text(
        row["spread_low"], row["spread_high"], " to ", ".3f"
    ),
    f"share above {THRESHOLD:g}": estimated("share_above"),
    "test examples in train": overlap_text,
    "difference": estimated("difference", "+.3f"),
    "p": lambda row: "<0.001" if row["p"] < 0.001 else f"{Estimate(row['p']):.3f}",
    "exploded": estimated("exploded"),
    "dead": estimated("dead"),
}
SEED_COLUMNS = [*COLUMNS][10:14]


def shown(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """A table as text, with some of `COLUMNS`."""
    rows = table.to_dict("records")
    return pd.DataFrame({name: [COLUMNS[name](row) for row in rows] for name in columns}, dtype=str)


def summary_of(variant: Variant) -> pd.DataFrame:
    """`summarise` of a variant, with the size of its test set and the share seen in training."""
    table, size = summarise(variant.results), variant.facts.test_examples
    return table.assign(examples=size, seen=table["overlap"] / (size or math.nan))


def results_table(variant: Variant) -> pd.DataFrame:
    """A row for each length as text, shortest first; some columns only where they say more.

    They are `error` where the loss decides, `all right` of several answers, `seen in training`
    where that is much, and `diverged`.
    """
    table, results = summary_of(variant), variant.results
    seen = bool((table["seen"] > MUCH_SEEN).any())
    error = ["error"] if variant.facts.better == "loss" else []
    sequences = ["all right"] if SEQUENCES in results else []
    columns = ["length", "seeds", "test accuracy", *error, *sequences, "sd", "best dev"]
    columns += ["seen in training"] * seen + ["diverged"] * bool(results["diverged"].any())
    return shown(table, columns)


def explosion_table(variants: Mapping[str, Variant]) -> pd.DataFrame:
    """A row for each variant and length, of those that recorded gradient norms."""
    found = {name: stats.explosions(one.histories, one.results) for name, one in variants.items()}
    tables = [one.assign(scored=one["seeds"], variant=n) for n, one in found.items() if len(one)]
    columns = ["variant"] * (len(variants) > 1) + ["length", "seeds", "exploded", "dead"]
    return shown(pd.concat(tables), columns) if tables else pd.DataFrame()


def span_text(variant: Variant) -> str:
    """The memory span in words; there is none where chance reaches the threshold."""
    span, chance = stats.memory_span(variant.results), variant.facts.chance
    if chance >= span.threshold:
        return f"memory span: none, since chance, {chance:.2f}, reaches {span.threshold:g}"
    return f"memory span (mean test accuracy above {span.threshold:g}): {span:.1f}"


def listed(values: Iterable[Any]) -> str:
    """Comma-separated values; `0..31` for a run of whole numbers, the first few of very many."""
    values = list(values)
    whole = len(values) > 2 and all(isinstance(value, (int, np.integer)) for value in values)
    if whole and values == list(range(values[0], values[0] + len(values))):
        return f"{values[0]}..{values[-1]}"
    text = ", ".join(map(str, values[:MOST_LISTED]))
    return text if len(values) <= MOST_LISTED else f"{text}, ... ({len(values)} in all)"


def duration(seconds: float) -> str:
    """`1 h 02 min`, `2 min 03 s` or `4.5 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def lines_of(texts: Iterable[str]) -> str:
    """Lines for the terminal."""
    return "\n".join(fill(t, WIDTH, subsequent_indent="  ", break_long_words=False) for t in texts)


def closing_text(record: Record) -> str:
    """What a run ends with: the table, the memory span, and what went wrong."""
    results = record.results
    notes = []
    if diverged := results["diverged"].sum():
        notes.append(f"{diverged} of {len(results)} experiments diverged")
    if lost := stats.unscored(results):
        words = "had no right answer in any evaluation, so they have no best parameters and scores"
        notes.append(f"{lost} of {len(results)} experiments {words}")
    if len(record.variants) > 1:
        return "\n".join([compared(record).table, *([lines_of(notes)] if notes else [])])
    table = results_table(record.variants[0]).to_string(index=False)
    return f"{table}\n\n{lines_of([span_text(record.variants[0]), *notes])}"


@dataclass(frozen=True)
class Comparison:
    """Variants by the names under which they are shown, one of them the baseline."""

    variants: Mapping[str, Variant]
    baseline: str
    frame: pd.DataFrame  # of `stats.compare`
    unfinished: tuple[str, ...] = ()  # names of runs

    @property
    def rows(self) -> pd.DataFrame:
        """Each length of each variant as text."""
        error = stats.score_of([*self.variants.values()]) == "test_loss"
        columns = ["length", "variant", "seeds", "error" if error else "test accuracy"]
        frame = self.frame.assign(p=self.frame["corrected_p_value"])
        return shown(frame, [*columns, "difference", "p"])

    @property
    def pairs(self) -> int:
        """The most pairs of any difference."""
        return int(self.frame["pairs"].max())

    @property
    def settings(self) -> list[str]:
        """In what each variant differs from the others, in settings, data and own files."""
        known = [{**one.settings, **one.own} for one in self.variants.values()]
        told = ["no setting differs"] * len(known)
        if len({setting_text(one) for one in known}) > 1:
            parts = records.parts_of(known)
            told = [", ".join(f"{n} {setting_text(x)[:40]}" for n, x in p.items()) for p in parts]
        return [f"{name}: {text}" for name, text in zip(self.variants, told, strict=True)]

    @property
    def notes(self) -> list[str]:
        """What could not be paired, what p cannot say, and the memory span of each variant."""
        late = "has not finished: it is shown as of its newest checkpoints."
        notes = [f"{name} {late}" for name in self.unfinished]
        paired = self.frame[self.frame["pairs"] > 0].groupby("variant")["pairs"]
        # Holm's correction multiplies the smallest by the number of lengths.
        least = [min(1.0, len(n) * min(2.0 ** (1 - n))) for _, n in paired]
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
        words = f"Differences are from {self.baseline}, paired by seed; p is corrected (Holm)."
        notes = [words, *self.notes] if self.pairs else self.notes
        rows = self.rows.to_string(index=False)
        return f"{lines_of(self.settings)}\n\n{rows}\n\n{lines_of(notes)}"

    def write(self, folder: Path, look: Look = DEFAULT_LOOK) -> list[Path]:
        """Write figures, tables and pages into a folder; returns the files."""
        page = Page(folder, look)
        pictures = page.draw(figures.figures_of_several(self.variants, look))
        page.tables("comparison", self.rows, self.frame)
        exploded = explosion_table(self.variants)
        page.write("comparison", {"found": self, "pictures": pictures, "explosions": exploded})
        return page.finish()


def comparison(runs: Mapping[str, Record], baseline: str | None = None) -> Comparison:
    """Compare runs by name, and the variants in them, with one of them; the first if none is named.

    Raises `UserError` if the baseline is none of them.
    """
    variants = {}
    for name, record in runs.items():
        for one in record.variants:
            variants[name if len(record.variants) == 1 else f"{name}: {one.label}"] = one
    chosen = next(iter(variants)) if baseline is None else baseline
    if chosen not in variants:
        raise UserError(f"`baseline` must be one of {', '.join(variants)}, got {chosen}")
    late = tuple(name for name, record in runs.items() if not record.finished)
    return Comparison(variants, chosen, stats.compare(variants, chosen), late)


def compared(record: Record) -> Comparison:
    """The comparison of the variants of a run with the first of them."""
    labels = [one.label for one in record.variants]
    names = labels if len({*labels}) == len(labels) else [one.name for one in record.variants]
    variants = dict(zip(names, record.variants, strict=True))
    return Comparison(variants, names[0], stats.compare(variants, names[0]))


class Page:
    """A page with its figures and tables, in a folder without links in their places.

    A figure that cannot be drawn costs neither the others nor the page; `finish` tells of it.
    """

    def __init__(self, folder: Path, look: Look):
        folder.mkdir(parents=True, exist_ok=True)
        check_plain(folder, ("figures", "tables"))
        self.folder, self.look = folder, look
        self.paths: list[Path] = []
        self.failed: list[str] = []

    def draw(
        self, drawings: Mapping[str, figures.Drawing], under: str = ""
    ) -> list[dict[str, Any]]:
        """Draw figures into a folder in `figures`; returns what a template shows of each."""
        place, drawn = self.folder / "figures" / under, []
        place.mkdir(parents=True, exist_ok=True)
        for name, drawing in drawings.items():
            try:
                files = files_of(drawing.draw(), self.look)
            except Exception as error:  # Matplotlib fails in many ways
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self.failed.append(f"{name}: {reason}")
                continue
            self.paths += write_figure(files, place / name)
            kind, image = next(kind for kind in (*IMAGES, *files) if kind in files), None
            if kind in IMAGES:
                image = f"data:{IMAGES[kind]};base64,{base64.b64encode(files[kind]).decode()}"
            link = quote((place / f"{name}.{kind}").relative_to(self.folder).as_posix())
            drawn.append({**vars(drawing), "name": name, "image": image, "link": link})
        return drawn

    def remove(self, table: str, drawings: Iterable[str]) -> None:
        """Remove a table and figures of before, which now stand in the folders of variants."""
        stale = [f"tables/{table}.{kind}" for kind in ("tex", "csv")]
        stale += [f"figures/{name}.{kind}" for name in drawings for kind in FORMATS]
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)

    def save(self, name: str, text: str) -> None:
        """Write a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
        self.paths.append(path)

    def tables(self, stem: str, rows: pd.DataFrame, frame: pd.DataFrame) -> None:
        """Write a table as LaTeX, as it is shown, and as CSV, with everything in full precision."""
        columns = "r" * rows.shape[1]
        self.save(f"{stem}.tex", rows.to_latex(index=False, escape=True, column_format=columns))
        self.save(f"{stem}.csv", frame.to_csv(index=False, lineterminator="\n"))

    def write(self, template: str, values: Mapping[str, Any]) -> None:
        """Write a page as Markdown, and as HTML that needs nothing else."""
        for kind in ("md", "html"):
            loader = FileSystemLoader(TEMPLATES, encoding="utf-8")
            rules: Any = {"trim_blocks": True, "lstrip_blocks": True, "autoescape": kind == "html"}
            environment = Environment(loader=loader, undefined=StrictUndefined, **rules)
            environment.filters |= {"listed": listed, "duration": duration, "text": setting_text}
            environment.filters |= {"shell": shlex.join}
            filled = {**values, "kind": kind, "limit": stats.EXPLOSION}
            text = environment.get_template(f"{template}.j2").render(filled)
            text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
            if kind == "html":
                text = environment.get_template("page.j2").render(body=Markup(text))
            self.save(f"{template}.{kind}", text)

    def finish(self) -> list[Path]:
        """The files that were written; raises `UserError` if a figure could not be drawn."""
        if self.failed:
            told = f"{len(self.failed)} figures could not be drawn ({self.failed[0]})"
            raise UserError(f"{told}; the results and the report are safe")
        return self.paths


def write_report(
    record: Record,
    folder: Path,
    look: Look = DEFAULT_LOOK,
    phases: Callable[[str], AbstractContextManager[None]] | None = None,
    gates: Mapping[str, figures.Gates] | None = None,
) -> list[Path]:
    """Write figures, tables, log and report of a run into a folder; returns the files.

    Of several variants it compares them, and each has folders of its own for figures and tables.

    Nothing is read from there. `phases` is a timer for each phase, by its name, and `gates`, by the
    names of variants, are for figure 6.13.

    Raises:
        UserError: for a link in the place of a folder, or a figure that could not be drawn; all the
            rest is written then.
    """
    timed = (lambda _: nullcontext()) if phases is None else phases
    page, several = Page(folder, look), len(record.variants) > 1
    with timed("intervals"):
        found = compared(record) if several else None
        parts = [part_of(variant) for variant in record.variants]
    pictures, logs = [], []
    if several:  # the run may have had one variant before
        page.remove(
            "accuracy", [name for one in record.variants for name in figures.figures_of(one)]
        )
    with timed("figures"):
        if found is not None:
            pictures = page.draw(figures.figures_of_several(found.variants, look))
        for part, one in zip(parts, record.variants, strict=True):
            drawings = figures.figures_of(one, look)
            if gates and one.name in gates:
                drawings |= figures.figures_of_gates(one, gates[one.name], look)
            part["pictures"] = page.draw(drawings, one.name if several else "")
    with timed("writing"):
        for part, one in zip(parts, record.variants, strict=True):
            stem = f"tables/{one.name}/accuracy" if several else "tables/accuracy"
            page.tables(stem, part["table"], summarise(one.results))
            if one.histories is not None:
                head = f"= {one.label}\n" if several else ""
                logs.append(head + records.log_text(one.histories))
        if found is not None:
            page.tables("tables/comparison", found.rows, found.frame)
        values = {"record": record, "found": found, "parts": parts, "pictures": pictures}
        page.write("report", {**values, "settings": shared_settings(record)})
        if logs:
            page.save(records.LOG_FILE, "\n".join(logs))
    return page.finish()


def shared_settings(record: Record) -> dict[str, Any]:
    """The settings that all experiments of a run have, without those that files make idle."""
    results, settings = record.results, [one.settings for one in record.variants]
    told = {name: listed(dict.fromkeys(results[f"{name[:-1]}"])) for name in ("lengths", "seeds")}
    idle = () if settings[0].get("data") is None else ("task", "multiplicity")
    for name, value in settings[0].items():
        if name not in idle and all(one.get(name) == value for one in settings):
            told[name] = setting_text(value)
    return told


def part_of(variant: Variant) -> dict[str, Any]:
    """What a report says of one variant."""
    results, histories, span = variant.results, variant.histories, span_text(variant)
    gone = results[results["diverged"]].groupby("length")["seed"]
    part = {"variant": variant, "facts": variant.facts, "results": results, "spikes": None}
    part |= {"span": span[0].upper() + span[1:], "table": results_table(variant)}
    part |= {
        "seed_table": shown(summary_of(variant), ["length", *SEED_COLUMNS]),
        "unscored": stats.unscored(results),
    }
    part |= {"explosions": explosion_table({variant.label: variant}), "gone": gone}
    if histories is not None:  # losses that are drawn meet the same batch again
        epoch, stride = histories.steps_an_epoch, records.loss_stride(histories.steps)
        period = math.lcm(stride, epoch)
        part |= {"epoch": epoch, "stride": stride, "period": period}
        part |= {"spikes": stride > 1 and epoch > 1 and period < histories.steps}
        part |= {"window": figures.epochs_a_point(histories)}
    return part
