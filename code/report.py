"""Stage 6: show what was learnt, in one page to look at and listen to, and list doubtful labels."""

import dataclasses

import numpy as np
import pandas as pd

from clips.dataset import SPLITS
from review import findings, media, page, plots
from review.findings import Scored
from runs import command_line, costs, study
from runs.run import Run
from storage import read_scores, written_whole
from trained import calibration
from trained import ensemble as trained

WORST = 6  # classes on the first screen
CHECKED = {"curated": "out of fold", "test": "test"}  # splits that probabilities are checked on


@command_line.stage
def main(run: Run) -> None:
    run.ensemble.require()
    if run.noisy_scores:
        run.noisy_scores.require()
    said = "see"
    if run.is_pending(run.report):
        run.clips("curated").require()
        run.require_folds()
        run.report.unseal()
        write_report(run)
        run.report.seal()
        said = "wrote"
    print(f"\n{said} {run.report.path('.html')} and {run.report.path('suspects.csv')}")


def write_report(run: Run) -> None:
    """Write the page and the table of labels that look wrong."""
    classes, known = run.dataset.classes, score(run)
    trained_on = [known[split] for split in ("curated", "noisy") if split in known]
    doubted = findings.suspects(trained_on, classes)
    with written_whole(run.report.path("suspects.csv")) as path:
        doubted.to_csv(path, columns=findings.COLUMNS, index=False)
    table = class_table(run, known["curated"])
    order = np.argsort(table["OOF lwlrap"].to_numpy(), kind="stable")
    stores, rate = {split: run.store(split) for split in SPLITS}, run.settings["sample_rate"]
    remarkable = findings.remarkable(known["curated"], doubted, classes, order)
    cards = [
        page.card(known[split], row, why, stores[split], rate, classes)
        for (split, row), why in remarkable.items()
    ]
    checked = {name: known[split] for split, name in CHECKED.items() if split in known}
    reliability = {name: reliability_table(scored) for name, scored in checked.items()}
    errors = "calibration.csv"  # where the labels of the test clips are known
    text = page.render(
        run=run,
        hours={name: store.n_samples.sum() / rate / 3600 for name, store in stores.items()},
        settings=settings_table(run),
        scores=pd.read_csv(run.ensemble.path("scores.csv")),
        per_class=table,
        worst=table[table["OOF labels"] > 0].nsmallest(WORST, "OOF lwlrap"),
        curves=plots.learning_curves(read_histories(run)),
        cards=cards,
        frequency_ticks=media.frequency_ticks(rate),
        n_suspects=doubted.groupby("split").size().to_dict(),
        reliability=reliability,
        errors=pd.read_csv(run.ensemble.path(errors)) if errors in run.ensemble.files else None,
        diagram=plots.reliability_diagram(reliability),
        searched=plots.searched(study.latest_figures(run.root)),
        costs=costs.totals(run.root),
    )
    with written_whole(run.report.path(".html")) as path:
        path.write_text(text, encoding="utf-8")


def score(run: Run) -> dict[str, Scored]:
    """The ensemble's scores of the clips whose labels are known, by split.

    Of the curated clips out of fold; of the noisy ones by a single network, which the stackers take
    for all.
    """
    ensemble, tables = trained.read(run.root), {}
    tables["curated"] = read_scores(run.ensemble.path("oof.csv"))
    if run.noisy_scores:
        noisy, (config, _) = read_scores(run.noisy_scores.path(".csv")), run.noisy_scorer
        noisy[:] = ensemble.stack({config.name: noisy.to_numpy()})
        tables["noisy"] = noisy
    if run.dataset["test"].labels is not None and len(run.dataset["test"]):
        tables["test"] = read_scores(run.ensemble.path("submission.csv"))
    known = {}
    for split, table in tables.items():
        clips = pd.Index(run.dataset[split].fnames).get_indexer(table.index)
        truth, scores = run.dataset[split].labels[clips], table.to_numpy()
        probabilities = ensemble.calibrations["ensemble"].probabilities(scores)
        known[split] = Scored(split, list(table.index), clips, truth, scores, probabilities)
    return known


def class_table(run: Run, curated: Scored) -> pd.DataFrame:
    """per_class.csv, and what each class is taken for."""
    unknown = dict.fromkeys(("OOF lwlrap", "test lwlrap"), "")  # a class may be called "nan"
    path = run.ensemble.path("per_class.csv")
    names = {"class": str}  # as 007
    table = pd.read_csv(path, dtype=names, keep_default_na=False, na_values=unknown)
    return table.assign(confusions=findings.confusions(curated, run.dataset.classes))


def reliability_table(scored: Scored) -> pd.DataFrame:
    """How often what has a probability is there: probability, share, count; a row for each bin."""
    bins = calibration.reliability(scored.probabilities, scored.truth)
    table = pd.DataFrame(dict(zip(("probability", "share", "count"), bins, strict=True)))
    return table[table["count"] > 0]


def read_histories(run: Run) -> dict[tuple[str, str], pd.DataFrame]:
    """By experiment and part; of pretrainings those that these experiments start from."""
    results = [*dict.fromkeys(filter(None, map(run.pretraining_of, run.configs)))]
    results += [run.fold(config, fold) for config in run.configs for fold in run.folds]
    return {
        tuple(result.name.split("/")[1:]): pd.read_csv(result.path(".history.csv"))
        for result in results
    }


def settings_table(run: Run) -> pd.DataFrame:
    """Every setting of every experiment, in words."""
    values = {config.name: dataclasses.asdict(config) for config in run.configs}
    flat = {name: pd.json_normalize(settings).iloc[0] for name, settings in values.items()}
    return pd.DataFrame(flat).map(str)


if __name__ == "__main__":
    main()
