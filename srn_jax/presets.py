"""Settings that belong together: sections of the textbook, a first look, the textbook's own run.

srn_jax.train(section="6.3")                 # python scripts/sweep.py --section 6.3
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from srn_jax.config import TEXTBOOK_LENGTHS
from srn_jax.errors import UserError

QUICK: dict[str, Any] = {"lengths": (5, 10), "seeds": 4, "epochs": 40}
TEXTBOOK: dict[str, Any] = {"data": "runs/textbook-data", "seeds": 1}
SECTIONS: dict[str, dict[str, Any]] = {  # of the textbook's chapter 6; 2026 is its new edition
    "6.1": {},
    "6.2": {
        "lengths": (20,),
        "optimizer": "sgd",
        "learning_rate": 0.2,
        "loss_reduction": "sum",
        "batch_size": 64,
        "epochs": 50,
        "clip_norm": [None, 5.0],
        "probes": ("gradient-norm",),
    },
    "6.3": {"cell": ["srn", "lstm"]},
    "2026": {},
}


def with_presets(
    given: Mapping[str, Any], section: str | None, quick: bool, textbook: bool
) -> dict[str, Any]:
    """What was given, and from presets what was not; the textbook's files are written if need be.

    Raises:
        UserError: for no such section, or lengths that the textbook has no files of.
    """
    if section is not None and section not in SECTIONS:
        raise UserError(f"`section` must be one of {', '.join(SECTIONS)}, got {section!r}")
    chosen: dict[str, Any] = dict(SECTIONS[section]) if section is not None else {}
    if section == "2026":
        from srn_jax.tasks.edition_2026 import SETTINGS

        chosen = dict(SETTINGS)
    chosen |= QUICK if quick else {}
    chosen |= TEXTBOOK if textbook else {}
    if "steps" in given:
        chosen.pop("epochs", None)
    own_files = given.get("data") is not None
    if own_files:
        chosen.pop("lengths", None)  # the folder says which there are
    merged = chosen | dict(given)
    if textbook and not own_files:
        lengths = merged.setdefault("lengths", TEXTBOOK_LENGTHS)
        write_textbook_data(Path(merged["data"]), lengths)
    return merged


def write_textbook_data(folder: Path, lengths: Any) -> None:
    """Write the textbook's own files, unless they are there; raises `UserError` for other ones."""
    lengths = [lengths] if isinstance(lengths, int) else lengths
    if not set(lengths) <= set(TEXTBOOK_LENGTHS):
        known = ", ".join(map(str, TEXTBOOK_LENGTHS))
        raise UserError(f"`lengths`: the textbook has files of {known} alone, see `data`")
    for _ in write_data(folder):
        pass


def write_data(
    folder: Path,
    lengths: tuple[int, ...] = TEXTBOOK_LENGTHS,
    multiplicities: tuple[int, int, int] = (3, 1, 1),
    seed: int = 0,
    overwrite: bool = False,
) -> Iterator[str]:
    """Write files as the textbook draws them, and say of each length what was written.

    Args:
        folder: in which each length has one.
        lengths: of the sequences.
        multiplicities: how often train, dev and test have each pair of digits.
        seed: of the stream.
        overwrite: whether files with something else in them may be lost.

    Raises:
        UserError: for files with something else in them.
    """
    from srn_jax.interop.textbook_files import SPLITS, check_same, textbook_splits, write_splits
    from srn_jax.runs.folder import check_place, make_folder

    check_place(folder)
    if folder.exists() and not overwrite:
        for length, splits in textbook_splits(lengths, multiplicities, seed):
            check_same(folder, length, splits)
    make_folder(folder)
    for length, splits in textbook_splits(lengths, multiplicities, seed):
        write_splits(folder, length, splits)
        sizes = ", ".join(f"{len(getattr(splits, name))} {name}" for name in SPLITS)
        yield f"{folder / str(length)}: {sizes}; {splits.overlap} test also in train"
