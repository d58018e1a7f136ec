"""What runs say, in tables and pages, for the terminal and as files with their figures."""

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
from srn_jax.analysis.look import DEFAULT_LOOK, FORMATS, Look, save_figure
from srn_jax.analysis.records import SEQUENCES, Record, Variant, setting_text
from srn_jax.analysis.stats import ABSENT, THRESHOLD, estimate_in, summarise
from srn_jax.errors import UserError
from srn_jax.files import check_plain, write_atomically

WIDTH = 80  # characters of a terminal
MOST_LISTED = 20
ACCURACY = "test accuracy (95 % interval)"
MUCH_SEEN = 0.05  # mean share of a test set in its training set that a table does not pass over
IMAGES = {"png": "image/png", "svg": "image/svg+xml"}
TEMPLATES = Path(__file__).with_name("templates")
Row = Mapping[Any, Any]


def estimated(name: str, spec: str = ".3f") -> Callable[[Row], str]:
    """The text of an estimate in a row."""
    return lambda row: format(estimate_in(row, name), spec)


def number(name: str, spec: str = ".3f") -> Callable[[Row], str]:
    """The text of a number in a row; `-` where it is not known."""
    return lambda row: ABSENT if pd.isna(row[name]) else format(row[name], spec)


def ends(name: str, between: str, spec: str = "") -> Callable[[Row], str]:
    """The text of two ends in a row, or of one if they agree."""
    texts = [number(f"{name}_{end}", spec) for end in ("low", "high")]
    return lambda row: between.join(dict.fromkeys(text(row) for text in texts))


# What stands in a row of a table, of those of `stats`, below each head.
COLUMNS: dict[str, Callable[[Row], str]] = {
    "length": lambda row: str(row["length"]),
    "variant": lambda row: str(row["variant"]),
    "seeds": lambda row: " of ".join(dict.fromkeys([str(row["scored"]), str(row["seeds"])])),
    ACCURACY: estimated("test_accuracy"),
    "error (95 % interval)": estimated("test_loss"),
    "all right": estimated(SEQUENCES),
    "seed sd": number("deviation"),
    "dev accuracy": number("best_dev_accuracy"),
    "seen in training": lambda row: number("seen", ".0%")(row).replace("%", " %"),
    "diverged": lambda row: str(row["diverged"]),
    "median": number("median"),
    "5 % to 95 % of seeds": ends("spread", " to ", ".3f"),
    f"share above {THRESHOLD:g}": estimated("share_above"),
    "test examples in train": ends("overlap", ".."),
    "difference": estimated("difference", "+.3f"),
    "p": lambda row: "<0.001" if row["p"] < 0.001 else number("p")(row),
    "exploded": estimated("exploded"),
    "dead": estimated("dead"),
}
SEED_COLUMNS = [*COLUMNS][10:14]


def shown(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """A table as text, with some of `COLUMNS`."""
    rows = table.to_dict("records")
    return pd.DataFrame({name: [COLUMNS[name](row) for row in rows] for name in columns}, dtype=str)


def results_table(variant: Variant) -> pd.DataFrame:
    """A row for each length as text; some columns only where they say more."""
    table, results = summarise(variant.results), variant.results
    table["seen"] = table["overlap"] / (variant.facts.test_examples or math.nan)
    error = ["error (95 % interval)"] if variant.facts.better == "loss" else []
    sequences = ["all right"] if SEQUENCES in results else []
    columns = ["length", "seeds", ACCURACY, *error, *sequences, "seed sd", "dev accuracy"]
    columns += ["seen in training"] * bool((table["seen"] > MUCH_SEEN).any())
    return shown(table, columns + ["diverged"] * bool(results["diverged"].any()))


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
    heads = "seed sd: standard deviation over seeds; dev accuracy: the best while training"
    return f"{table}\n{heads}\n\n{lines_of([span_text(record.variants[0]), *notes])}"


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
        columns = ["length", "variant", "seeds", "error (95 % interval)" if error else ACCURACY]
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
    """Compare runs by name, and the variants in them, with one of them, by default the first."""
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
    """A page with its figures and tables, in a folder without links in their places."""

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
                paths = save_figure(drawing.draw(), place / name, self.look)
            except OSError:
                raise
            except Exception as error:  # Matplotlib fails in many ways
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self.failed.append(f"{name}: {reason}")
                continue
            self.paths += paths
            of_kind = {path.suffix[1:]: path for path in paths}
            kind, image = next(kind for kind in (*IMAGES, *of_kind) if kind in of_kind), None
            if kind in IMAGES:
                content = base64.b64encode(of_kind[kind].read_bytes()).decode()
                image = f"data:{IMAGES[kind]};base64,{content}"
            link = quote(of_kind[kind].relative_to(self.folder).as_posix())
            drawn.append({**vars(drawing), "name": name, "image": image, "link": link})
        return drawn

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
            environment.filters |= {"listed": listed, "shell": shlex.join}
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
    `phases` is a timer for each phase, and `gates`, by the names of variants, are for figure 6.13.
    Raises `UserError` for a link in the place of a folder, or, after all the rest is written, for a
    figure that could not be drawn.
    """
    timed = (lambda _: nullcontext()) if phases is None else phases
    page, several = Page(folder, look), len(record.variants) > 1
    with timed("intervals"):
        found = compared(record) if several else None
        parts = [part_of(variant) for variant in record.variants]
    pictures, logs = [], []
    if several:  # the run may have had one variant before, whose files now stand in its own folder
        names = {name for one in record.variants for name in figures.figures_of(one)}
        stale = [f"figures/{name}.{kind}" for name in names for kind in FORMATS]
        for name in [*stale, "tables/accuracy.tex", "tables/accuracy.csv"]:
            (folder / name).unlink(missing_ok=True)
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
        values: dict[str, Any] = {
            "record": record,
            "found": found,
            "parts": parts,
            "pictures": pictures,
        }
        values |= {"settings": settings_lines(record), "lines": run_lines(record.info)}
        page.write("report", values)
        if logs:
            page.save(records.LOG_FILE, "\n".join(logs))
    return page.finish()


def settings_lines(record: Record) -> list[str]:
    """The settings that all experiments of a run have, without those that files make idle."""
    results, settings = record.results, [one.settings for one in record.variants]
    lines = [f"{x}s: {listed(dict.fromkeys(results[x]))}" for x in ("length", "seed")]
    idle = () if settings[0].get("data") is None else ("task", "multiplicity")
    for name, value in settings[0].items():
        if name not in idle and all(one.get(name) == value for one in settings):
            lines.append(f"{name}: {setting_text(value)}")
    return lines


def run_lines(info: Mapping[str, Any]) -> list[str]:
    """Where, when and with what a run was made, and how long it took."""
    names = ("device", "processor", "date", "commit")
    told = {name: info[name] for name in names if info.get(name)}
    if isinstance(info.get("seconds"), int | float):
        told["time"] = duration(info["seconds"])
    if spent := info.get("phases"):
        words = [f"{name} {duration(seconds)}" for name, seconds in spent.items()]
        told["where the time went"] = ", ".join(words)
    told |= info.get("versions") or {}
    lines = [f"{name}: {text}" for name, text in told.items()]
    return lines + [f"went on: {setting_text(place)}" for place in info.get("went_on") or ()]


def part_of(variant: Variant) -> dict[str, Any]:
    """What a report says of one variant."""
    results, histories, span = variant.results, variant.histories, span_text(variant)
    gone = results[results["diverged"]].groupby("length")["seed"]
    part = {"variant": variant, "facts": variant.facts, "results": results, "spikes": None}
    part |= {"span": span[0].upper() + span[1:], "table": results_table(variant)}
    part |= {
        "seed_table": shown(summarise(results), ["length", *SEED_COLUMNS]),
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
