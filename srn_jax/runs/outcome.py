"""What the state of a sweep says, finished or not: its results and histories."""

import numpy as np

from srn_jax.analysis.results import Histories, Results
from srn_jax.config import SweepConfig
from srn_jax.ensemble.sweep import Sweep, as_fraction, evaluate_experiments
from srn_jax.training.experiment import TrainState, evaluation_steps


def collect(sweep: Sweep) -> tuple[Results, Histories]:
    """Results and histories of a sweep, finished or not."""
    state, test, overlap = sweep.gather((sweep.state, sweep.data.test, sweep.data.overlap))
    histories = histories_of(sweep.config, state)
    test_loss, test_accuracy = evaluate_experiments(
        sweep.config.experiment, state.best_parameters, test
    )
    dev_examples = sweep.data.dev.labels.shape[-1]
    never = untrained(state.diverged, state.best_step)
    best = np.searchsorted(histories.eval_steps, np.maximum(state.best_step, 0))

    def unless_never(values: np.ndarray) -> np.ndarray:
        return np.where(never, np.nan, np.asarray(values, float))

    results = Results(
        length=histories.length,
        seed=histories.seed,
        best_dev_accuracy=unless_never(as_fraction(state.best_accuracy, dev_examples)),
        best_step=state.best_step,
        dev_loss=unless_never(state.dev_loss[np.arange(len(best)), best]),
        test_accuracy=unless_never(test_accuracy),
        test_loss=unless_never(test_loss),
        final_train_loss=histories.epoch_loss[:, -1].astype(float),
        overlap=overlap,
        diverged=state.diverged,
    )
    return results, histories


def untrained(diverged: np.ndarray, best_step: np.ndarray) -> np.ndarray:
    """Which experiments diverged before any evaluation, so that there is nothing to test."""
    return diverged & (best_step < 0)


def histories_of(config: SweepConfig, state: TrainState) -> Histories:
    """The histories in a state `[experiment, ...]`, finished or not."""
    lengths, seeds = (np.array(column) for column in zip(*config.experiments, strict=True))
    train_loss = np.asarray(state.train_loss)
    steps = train_loss.shape[1]
    return Histories(
        length=lengths,
        seed=seeds,
        eval_steps=evaluation_steps(config.experiment, steps),
        steps={"train_loss": train_loss},
        evaluations={
            "dev_loss": np.asarray(state.dev_loss),
            "dev_accuracy": np.asarray(state.dev_accuracy),
        },
        steps_an_epoch=steps // config.experiment.epochs,
    )
