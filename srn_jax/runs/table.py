"""What run.json holds: a table of experiments (variant, length, seed) that grows by parts.

A part is a rectangle of the table, variants x lengths x seeds, whose variants share a program; its
experiments stand with variants in the outer loop and seeds in the inner. Parts do not overlap, and
what is in a part is never trained or moved again.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from srn_jax.config import Facts, SweepConfig
from srn_jax.errors import UserError, shown
from srn_jax.files import digest_of
from srn_jax.own_files import OWN, path_of
from srn_jax.runs.settings import configs_of, recorded, settings_of, sketch

FORMAT = 1
OLDER = "runs of versions before format 1 are not read, train it again in another folder"
NUMBER_OR_NONE = (float, None)

# Of JSON values: a type, a list [kind], a mapping {str: kind}, an object with some names, or a
# tuple of alternatives. Names that begin with a question mark may be missing.
PLACE = {
    **{f"?{name}": str for name in ("device", "processor", "commit", "date")},
    **{f"?{name}": {str: str} for name in ("versions", "outside")},
}
PART = {
    **{"variants": [int], "lengths": [int], "seeds": [int], "places": [int], "seconds": float},
    **{"kernel": (bool, None), "files": {str: str}, "finished": bool},
}
DATA = {
    **{"path": str, "sha256": str, "vocabulary": int, "classes": int, "chance": float},
    "digests": [str],
}
FACTS = {
    **{"question": str, "title": str, "chance": NUMBER_OR_NONE, "chance_loss": NUMBER_OR_NONE},
    **{"test_examples": int, "fixed_data": bool, "better": str, "answers": (int, None)},
}
RUN = {
    **{"format": int, "command": str, "lengths": [int], "seeds": [int], "every_loss": bool},
    **{"variants": [{str: (bool, float, str, None)}], "data": (DATA, None), "probes": [str]},
    **{"own": {str: {"sha256": str, "path": str}}, "parts": [PART], "facts": [FACTS]},
    **{"phases": {str: float}, "seconds": float, "files": {str: str}, "finished": bool},
    **{"?went_on": [PLACE], **PLACE},
}


def misfits(value: Any, kind: Any, name: str = "run.json") -> Iterator[str]:
    """What is wrong with the kinds of JSON values, as `part of the name: what stands there`."""
    if isinstance(kind, tuple):
        if all(any(misfits(value, one, name)) for one in kind):
            yield f"{name}: {shown(value)}"
    elif isinstance(kind, list) and isinstance(value, list):
        for number, one in enumerate(value):
            yield from misfits(one, kind[0], f"{name}[{number}]")
    elif isinstance(kind, dict) and isinstance(value, dict):
        if str in kind:
            for key, one in value.items():
                yield from misfits(key, str, f"a name in {name}")
                yield from misfits(one, kind[str], f"{name}.{shown(key)}")
            return
        for key, inner in kind.items():
            plain = key.removeprefix("?")
            if plain in value:
                yield from misfits(value[plain], inner, f"{name}.{plain}")
            elif plain == key:
                yield f"{name}.{key} is missing"
    elif not _is_a(value, kind):
        yield f"{name}: {shown(value)}"


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a type; a float may be a whole number, and is finite."""
    if kind is None or kind is bool:
        return value is None if kind is None else isinstance(value, bool)
    if kind is str:  # half of a character cannot be printed
        return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return (whole and kind in (int, float)) or (
        kind is float and isinstance(value, float) and math.isfinite(value)
    )


def check_info(info: Mapping[str, Any]) -> None:
    """Raise `UserError` for what no run of this version writes, whatever its digest says."""
    form = info.get("format")
    if form != FORMAT:
        newer = isinstance(form, int) and form > FORMAT
        raise UserError(f"it is of a newer version (format {form})" if newer else OLDER)
    if "sha256" not in info:
        raise UserError("damaged (it has no digest)")
    for wrong in misfits(info, RUN):
        raise UserError(f"damaged ({wrong})")
    for name in info["own"]:
        if not OWN.fullmatch(f"{name}:x") or any(sign in name for sign in "/\\:\0"):
            raise UserError(f"damaged (own: {shown(name)} is not the name of a file)")
    if info["data"] is not None and len(info["data"]["digests"]) != len(info["lengths"]):
        raise UserError("damaged (data: digests of other lengths)")
    if len(info["facts"]) != len(info["variants"]):
        raise UserError("damaged (facts: of other variants)")
    try:
        configs_of(info, sketch)
        if any(sorted(info[name]) != info[name] for name in ("lengths", "seeds")):
            raise ValueError("lengths or seeds are not in their order")
        parts = [part_experiments(info, number) for number in range(len(info["parts"]))]
        every = {experiment for part in parts for experiment in part}
        size = len(info["variants"]) * len(info["lengths"]) * len(info["seeds"])
        if not sum(map(len, parts)) == len(every) == size:
            raise ValueError("its parts are not the experiments of the run")
        if info["finished"] and not all(part["finished"] for part in info["parts"]):
            raise ValueError("it is finished, and its parts are not")
    except (IndexError, TypeError, ValueError) as error:  # the last are mistakes in settings, too
        raise UserError(f"damaged ({error})") from None


def part_experiments(info: Mapping[str, Any], number: int) -> list[tuple[int, int, int]]:
    """The (variant, length, seed) of each experiment of a part; raises `IndexError` for others."""
    part = info["parts"][number]
    for name, has in (("variants", range(len(info["variants"]))), ("places", range(10_000))):
        if strange := set(part[name]) - set(has):
            raise IndexError(f"there is no number {min(strange)} of {name}")
    for name in ("lengths", "seeds"):
        if strange := set(part[name]) - set(info[name]):
            raise IndexError(f"part {number} has {min(strange)} of {name}, and the run has not")
    return [(v, n, s) for v in part["variants"] for n in part["lengths"] for s in part["seeds"]]


def with_parts(info: dict[str, Any], configs: Sequence[SweepConfig]) -> dict[str, Any]:
    """The table with new parts for the experiments that are in none; `configs` are its variants."""
    there = {one for n in range(len(info["parts"])) for one in part_experiments(info, n)}
    programs: dict[Any, list[int]] = {}
    for variant, config in enumerate(configs):
        programs.setdefault(config.experiment.program, []).append(variant)
    new = []
    for variants in programs.values():
        rectangles: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for variant in variants:
            lengths_of: dict[tuple[int, ...], list[int]] = {}
            for length in info["lengths"]:
                seeds = tuple(s for s in info["seeds"] if (variant, length, s) not in there)
                if seeds:
                    lengths_of.setdefault(seeds, []).append(length)
            for seeds, lengths in lengths_of.items():
                rectangles.setdefault((tuple(lengths), seeds), []).append(variant)
        new += [(own, lengths, seeds) for (lengths, seeds), own in rectangles.items()]
    parts: list[Any] = [
        {
            **{"variants": [*variants], "lengths": [*lengths], "seeds": [*seeds]},
            **{"kernel": None, "places": [], "seconds": 0.0, "files": {}, "finished": False},
        }
        for variants, lengths, seeds in new
    ]
    finished = info["finished"] and not parts
    return {**info, "parts": [*info["parts"], *parts], "finished": finished}


def part_configs(
    info: Mapping[str, Any], number: int, configs: Sequence[SweepConfig]
) -> list[SweepConfig]:
    """The sweeps that a part trains side by side."""
    part = info["parts"][number]
    data = configs[0].data
    if data is not None:
        by_length = dict(zip(configs[0].lengths, data.digests, strict=True))
        data = replace(data, digests=tuple(by_length[n] for n in part["lengths"]))
    shape: dict[str, Any] = {name: tuple(part[name]) for name in ("lengths", "seeds")}
    return [replace(configs[variant], data=data, **shape) for variant in part["variants"]]


def part_digest(configs: Sequence[SweepConfig], own: Mapping[str, Any]) -> str:
    """What a checkpoint says of the experiments it is of; `configs` are of `part_configs`."""
    first = configs[0]
    told = [settings_of(config.experiment) for config in configs]
    probes = [recorded(probe) for probe in first.probes]
    named = [value for settings in told for value in settings.values()] + probes
    used = {path.name: own[path.name]["sha256"] for path in filter(None, map(path_of, named))}
    files = first.data.digests if first.data else None
    return digest_of([told, first.lengths, first.seeds, files, probes, first.every_loss, used])


def rows_of(info: Mapping[str, Any], variant: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Where a variant's experiments are.

    Returns for each part that has some: its number, their rows in it, and their places `[row]` in
    the variant's table, which is ordered by length and seed.
    """
    lengths, seeds = np.array(info["lengths"]), np.array(info["seeds"])
    found = []
    for number, part in enumerate(info["parts"]):
        if variant in part["variants"]:
            size = len(part["lengths"]) * len(part["seeds"])
            first = part["variants"].index(variant) * size
            row = np.searchsorted(lengths, part["lengths"])
            column = np.searchsorted(seeds, part["seeds"])
            places = (row[:, None] * len(seeds) + column).reshape(-1)
            found.append((number, np.arange(first, first + size), places))
    return found


def facts_as_json(facts: Iterable[Facts]) -> list[dict[str, Any]]:
    """What the tasks of the variants say, with what is no number left out."""
    told = [dataclasses.asdict(one) for one in facts]
    for one in told:
        for name in ("chance", "chance_loss"):
            if one[name] is not None and not math.isfinite(one[name]):
                one[name] = None
    return told
