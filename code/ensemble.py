"""Stage 5: stack the experiments' scores into one submission, and print the scores of all."""

import keras
import numpy as np
from tqdm import tqdm

import command_line
import metrics
import report
from batches import random_generator
from config import Config
from dataset import assign_folds
from errors import PipelineError
from layers import LastChannel, LocallyConnected1D
from outputs import read_scores, write_scores
from run import Run

SHIFT = 1.6


def build_stacker(n_classes: int, n_channels: int, learning_rate: float = 1e-4) -> keras.Model:
    """The stacking network, compiled.

    Per class a weight vector over the channels, of unit L2 norm, at first 1 on the last channel;
    then a dense layer between the classes, at first the identity; then (tanh(x - 1.6) + 1) / 2.
    So its first output is sigmoid(2 (last channel - 1.6)).

    Parameters
    ----------
    n_classes : int
    n_channels : int
        Models + 1: the last channel is the models' weighted average.
    learning_rate : float
        Of Nadam.

    Returns
    -------
    keras.Model: (batch, n_classes, n_channels) -> (batch, n_classes)
    """
    scores = keras.Input((n_classes, n_channels), name="scores")
    x = LocallyConnected1D(
        1,
        kernel_initializer=LastChannel(),
        kernel_constraint=keras.constraints.UnitNorm(axis=1),  # over the channels
        name="models",
    )(scores)  # (classes, 1)
    x = keras.layers.Flatten()(x)  # (classes,)
    x = keras.layers.Dense(
        n_classes, use_bias=False, kernel_initializer="identity", name="classes"
    )(x)
    x = (keras.ops.tanh(x - SHIFT) + 1) / 2
    model = keras.Model(scores, x, name="stacker")
    model.compile(
        keras.optimizers.Nadam(learning_rate), loss="binary_crossentropy", jit_compile=False
    )
    return model


def stacker_input(scores: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """Each model's scores, then their weighted average: (clips, classes, models + 1).

    Parameters
    ----------
    scores : one (clips, classes) per model
    weights : one per model; where all are 0 the models count alike
    """
    average = np.average(scores, axis=0, weights=weights if any(weights) else None)
    return np.stack([*scores, average], axis=-1).astype(np.float32)


def stack(
    oof: np.ndarray, truth: np.ndarray, test: np.ndarray, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Train one stacker per fold; keep each at its best epoch.

    Parameters
    ----------
    oof : (curated clips, classes, channels)
    truth : multi-hot (curated clips, classes)
    test : (test clips, classes, channels)

    Returns
    -------
    (curated clips, classes) each clip's score from the stacker that was not trained on it, and
    (test clips, classes) the mean over the stackers
    """
    fold_of = assign_folds(truth, config.n_folds, config.fold_seed)
    model = build_stacker(oof.shape[1], oof.shape[2], config.stacker_learning_rate)
    model.optimizer.build(model.trainable_variables)
    state = [*model.variables, *model.optimizer.variables]
    initial = [keras.ops.convert_to_numpy(variable) for variable in state]
    stacked, submission = np.zeros(truth.shape), np.zeros(test.shape[:2])
    for fold in tqdm(range(config.n_folds), desc="stackers", leave=False, disable=None):
        for variable, value in zip(state, initial, strict=True):
            variable.assign(value)
        training, validated = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        rng = random_generator(config, f"stacker fold{fold}", epoch=0)
        stacked[validated], weights = _fit(model, oof, truth, training, validated, config, rng)
        model.set_weights(weights)
        if len(test):
            submission += model.predict(test, verbose=0) / config.n_folds
    return stacked, submission


def _fit(model, oof, truth, training, validated, config: Config, rng):
    """Scores of the validated clips, and weights, both at the epoch of the best LRAP."""
    best, best_epoch = None, 0
    for epoch in range(config.stacker_epochs):
        scores = model.predict_on_batch(oof[validated])
        score = metrics.lrap(truth[validated], scores)
        if best is None or score > best[0]:
            best, best_epoch = (score, scores, model.get_weights()), epoch
        elif epoch - best_epoch >= config.stacker_patience:
            break
        order = rng.permutation(training)
        for first in range(0, len(order), config.stacker_batch_size):
            batch = order[first : first + config.stacker_batch_size]
            model.train_on_batch(oof[batch], truth[batch])
    return best[1], best[2]


def read_predictions(run: Run, part: str, fnames: list[str]) -> list[np.ndarray]:
    """Every experiment's scores of the given clips: one (clips, classes) each.

    Raises
    ------
    MissingResult
        If some are missing, damaged, or were predicted for other clips, folds or settings.
    """
    scores = []
    for config in run.configs:
        for fold in run.folds:  # of the present settings, not only of the same folds
            run.fold(config, fold).require(run.fold_source(config, fold))
        result = run.predictions(config)
        result.require(run.predictions_source(config))
        scores.append(read_scores(result.files[part]).loc[fnames].to_numpy())
    return scores


@command_line.stage
def main(run: Run) -> None:
    classes, test, config = run.dataset.classes, run.dataset["test"], run.configs[0]
    curated = run.examples("curated")
    clips = curated.clips[np.isin(run.folds_of_clips()[curated.clips], run.folds)]
    fnames, truth = [curated.store.fnames[clip] for clip in clips], curated.labels[clips]
    oof = read_predictions(run, "oof", fnames)
    result, source = run.ensemble(), run.ensemble_source()
    if run.is_pending(result, source):
        result.unseal()
        predicted = read_predictions(run, "test", test.fnames) if len(test) else []
        weights = [config.stack_weight for config in run.configs]
        n_channels = len(run.configs) + 1
        inputs = stacker_input(predicted, weights) if predicted else np.empty((0, 0, n_channels))
        stacked, submission = stack(stacker_input(oof, weights), truth, inputs, config)

        if not all(((scores >= 0) & (scores <= 1)).all() for scores in (stacked, submission)):
            raise PipelineError("the stacker's scores are not in [0, 1]: no submission was written")
        names = [*(config.name for config in run.configs), "ensemble"]
        report.write(
            run,
            truth,
            oof=dict(zip(names, [*oof, stacked], strict=True)),
            test=dict(zip(names, [*predicted, submission], strict=True)) if predicted else {},
        )
        write_scores(result.files["oof"], fnames, classes, stacked)
        run.outputs.table("submission").unlink(missing_ok=True)  # of an earlier test set, perhaps
        if predicted:
            write_scores(result.files["submission"], test.fnames, classes, submission)
        result.seal(source)
    report.show(result)


if __name__ == "__main__":
    main()
