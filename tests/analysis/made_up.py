"""Small runs, made up, for the tests of what shows them."""

import numpy as np

from srn_jax.analysis.records import Histories, Record, Variant, results_frame
from srn_jax.config import Facts

NAN = float("nan")


def results_of(scores, diverged=None, seeds=None, **columns):
    """A table of `{length: test accuracies}`; the best dev accuracy is 0.1 higher."""
    length = np.concatenate([np.full(len(row), length) for length, row in scores.items()])
    seed = [np.arange(len(row)) if seeds is None else seeds for row in scores.values()]
    test = np.concatenate([np.asarray(row, float) for row in scores.values()])
    told = {
        "length": length,
        "seed": np.concatenate(seed),
        "best_dev_accuracy": test + 0.1,
        "best_step": np.where(np.isnan(test), -1, 100),
        "dev_loss": 1 - test,
        "test_accuracy": test,
        "test_loss": 1 - test,
        "final_train_loss": np.zeros(test.size),
        "overlap": np.arange(test.size) % 5,
        "diverged": np.isnan(test) if diverged is None else np.asarray(diverged),
    }
    return results_frame(told | columns)


def histories_of(results, steps=400, steps_an_epoch=38, probes=None, seed=0):
    """Histories for the experiments of a table, falling losses with some noise."""
    rng = np.random.default_rng(seed)
    kept = np.arange(0, steps, max(1, steps // 100))
    evaluations = np.append(np.arange(100, steps - 1, 100), steps - 1)
    scale = rng.uniform(1, 3, (len(results), 1)).astype(np.float32)

    def falling(at):
        return scale * np.exp(-np.asarray(at) / steps).astype(np.float32)

    dev = falling(evaluations) + np.float32(0.2)
    return Histories(
        length=results["length"].to_numpy(),
        seed=results["seed"].to_numpy(),
        eval_steps=evaluations,
        loss_steps=kept,
        steps_an_epoch=steps_an_epoch,
        train_loss=falling(kept),
        epoch_loss=falling(np.arange(-(-steps // steps_an_epoch)) * steps_an_epoch),
        dev_loss=dev,
        dev_accuracy=np.round(1 - dev / 4, 2),
        probes=probes or {},
    )


def variant_of(results, name="srn", histories=None, facts=None, **settings):
    """A variant with some settings of an experiment."""
    told = {"task": "digit-sum", "cell": name, "optimizer": "adam", "data": None, **settings}
    label = {"srn": "SRN", "lstm": "LSTM", "gru": "GRU"}.get(name, name)
    return Variant(name, label, told, facts or Facts(), results, histories)


def run_of(*variants, **info):
    """A record of variants."""
    return Record(variants, info)


GOOD = results_of({5: [0.7, 0.8, 0.9, 0.8], 35: [0.1, 0.2, 0.3, 0.3]})
