"""Runs of the version that knew one cell and one task, as those of this version.

There, data were a path with a digest beside it, the parameters of the only cell were called `srn`,
and the three histories stood among the rest of the training state.
"""

from typing import Any

import numpy as np


def translate_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of either version as this version's; what they do not say is left to defaults."""
    if not isinstance(settings.get("data"), str):
        return settings
    data = {"path": settings["data"], "sha256": settings["data_sha256"]}
    return {k: v for k, v in settings.items() if k != "data_sha256"} | {"data": data}


def translate_items(items: dict[str, Any]) -> dict[str, Any]:
    """The items of a checkpoint of either version, `[experiment, ...]`, as this version's."""
    models, training = items["models"], dict(items["training"])
    if "srn" not in models["last"]:
        return items
    steps = {"train_loss": training.pop("train_loss")}
    evaluations = {name: training.pop(name) for name in ("dev_loss", "dev_accuracy")}
    # The optimizer's vectors hold all parameters in the order of their names, and the cell's name
    # has moved from the last place to the first.
    moved = sum(leaf[0].size for leaf in models["last"]["srn"].values())
    training["optimizer"] = {
        name: leaf if leaf.ndim < 2 else np.roll(leaf, moved, axis=1)
        for name, leaf in training["optimizer"].items()
    }
    renamed = {
        which: {"cell" if name == "srn" else name: part for name, part in parameters.items()}
        for which, parameters in models.items()
    }
    training |= {"steps": steps, "evaluations": evaluations}
    return {"models": renamed, "training": training}
