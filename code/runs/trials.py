"""One trial of a search: the folds of an experiment trained with some settings; from clips alone.

It knows nothing of the study's file: it is given what it is compared with, and gives back what came
of it, so that any worker can try any settings.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import optuna

from config import Config
from messages import short_of_memory
from runs import resume
from runs.run import Run
from solution import metrics
from solution.training import HISTORY, Learner, Training
from storage import Checkpoint

TRIALS = Path("search", "trials")  # below the output folder: checkpoints
COMPARED_FROM = 3  # former trials
WARM_UP_EPOCHS = 3  # at most, before a trial may be given up


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a trial."""

    epochs: dict[int, float]  # lwlrap after each, counted over all folds
    score: float | None = None  # out-of-fold lwlrap; None where it was not trained to the end
    why: str = ""  # ... as the settings are not possible; else it was given up


def attempt(run: Run, config: Config, key: str, former: list[optuna.trial.FrozenTrial]) -> Outcome:
    """Train with these settings, unless they turn out below the median of the former trials.

    key : of these settings; an interrupted trial goes on from its last epoch
    former : what is compared at the same epoch
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warm_up = min(WARM_UP_EPOCHS, config.training.epochs // 4)
    pruner = optuna.pruners.MedianPruner(COMPARED_FROM, n_warmup_steps=warm_up)
    judge = optuna.create_study(direction="maximize", pruner=pruner)
    judge.add_trials(former)
    trial, epochs = judge.ask(), {}

    def report(epoch: int, lwlrap: float) -> None:
        epochs[epoch] = lwlrap
        trial.report(lwlrap, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        return Outcome(epochs, score(run, config, run.root / TRIALS / key, report))
    except optuna.TrialPruned:
        return Outcome(epochs)
    except (ValueError, FloatingPointError) as error:
        return Outcome(epochs, why=str(error))
    except Exception as error:
        if not short_of_memory(error):
            raise
        return Outcome(epochs, why="it takes more memory than there is")


def score(run: Run, config: Config, folder: Path, report: Callable[[int, float], None]) -> float:
    """Out-of-fold lwlrap of the run's folds with these settings.

    folder : for checkpoints; the same trial goes on from its last epoch
    report : (epoch, counted over all folds; lwlrap), after each epoch; what it raises ends it
    """
    curated = run.examples("curated", config, stored_views=False)
    truth, scores = [], []
    learner = Learner(config, len(run.dataset.classes), config.training.loss_q)
    for number, fold in enumerate(run.folds):
        others, validation = run.divided(curated, fold)
        training = Training(learner, f"fold{fold}", others, validation, config.training)
        state = resume.SavedState(training, Checkpoint(folder / f"fold{fold}.checkpoint", ""))
        state.restore()
        first = number * config.training.epochs
        for epoch, row in enumerate(training.scoring.history):  # of an interrupted trial
            report(first + epoch, row[HISTORY.index("lwlrap")])
        reporting = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs, first=first: report(first + epoch, logs["lwlrap"])
        )
        progress = resume.Progress(training, f"{config.name} fold {fold}")
        kept = training.fit(progress, state, reporting)
        truth.append(curated.labels[validation.clips])
        scores.append(kept.scores)
    return metrics.lwlrap(np.concatenate(truth), np.concatenate(scores))
