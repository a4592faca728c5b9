"""A search for settings: what it varies, and the study (of Optuna) that remembers its trials."""

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from clips.names import nearest
from config import TRAINING_SETTINGS, Config
from messages import InputError
from runs import settings
from runs.results import differences, fingerprint
from runs.run import STUDY

# The front end, which is varied unless told otherwise; what else is varied has to be named.
FRONT_END = ("n_hop", "n_dft", "n_mels", "fmin", "fmax", "htk", "return_decibel_melgram")
FRONT_END += ("trainable_kernel", "trainable_fb")
OF_STORE = ("name", "sample_rate", "frontend")  # what would take other clips
KINDS = {name: settings.KINDS[name] for name in TRAINING_SETTINGS if name not in OF_STORE}
KINDS |= settings.SCHEDULE_KINDS  # of the training, not of the pretraining
RANGES = {
    "n_dft": "512/1024/2048",
    "n_mels": "32/48/64/96/128",
    "fmin": "0:200",
    "mixup_prob": "0:1",
    "mixup_rate": "0.5:1",
    "label_smoothing": "0:0.1",
    "stem": "plain/msc",
    "precision": "float32/bfloat16",
}
FACTORS = {"learning_rate": 4.0}  # of what lies between the present value over it, and times it
LOG_FROM = 4.0  # ranges over such a factor are searched on a logarithmic scale
FIRST_AT_RANDOM = 5  # trials
KILLED = "killed"  # the attribute of a trial that the system ended


def ranges(over: list[str], base: Config) -> dict[str, BaseDistribution]:
    """What is varied: the front end, and what `--over` names.

    over : "NAME", "NAME=LOW:HIGH", "NAME=VALUE" or "NAME=VALUE/VALUE/..."; "+" joins the parts of a
        value with several, as of `pooling`

    InputError if a setting cannot be varied, or not so.
    """
    named = dict(one.partition("=")[::2] for one in over)
    for name in named:
        if name not in KINDS:
            known = ", ".join(KINDS)
            raise InputError(f"--over {name}: can be {known}{nearest(name, KINDS, cutoff=0.6)}")
    texts = {
        name: named.get(name) or _default(name, base)
        for name in {**dict.fromkeys(FRONT_END), **named}
    }
    return {name: _distribution(name, text) for name, text in texts.items()}


def _default(name: str, base: Config) -> str:
    value = present(name, base)
    if name == "fmax":
        return f"{0.35 * base.sample_rate / 2:g}:{base.sample_rate / 2:g}"
    if name in RANGES:
        return RANGES[name]
    if KINDS[name] is bool:
        return "false/true"
    if isinstance(value, (int, float)) and value > 0:
        factor = FACTORS.get(name, 2.0)
        return f"{type(value)(value / factor)}:{type(value)(value * factor)}"
    shown = "null" if value is None else value  # as JSON has it
    raise InputError(f"--over {name}: name the values, as in {name}={shown}/OTHER")


def _distribution(name: str, text: str) -> BaseDistribution:
    low, colon, high = text.partition(":")
    try:
        if not colon:
            values = [_value(name, part) for part in text.split("/")]
            return CategoricalDistribution(
                [_joined(value) if isinstance(value, tuple) else value for value in values]
            )
        low, high = _value(name, low), _value(name, high)
        kind = IntDistribution if KINDS[name] in (int, int | None) else FloatDistribution
        return kind(low, high, log=0 < LOG_FROM * low <= high)
    except (ValueError, TypeError) as error:
        raise InputError(f"--over {name}={text}: {error}") from error


def _value(name: str, text: str):
    """A value as the command line has it."""
    kind = KINDS[name]

    def parsed(part: str):
        try:
            return json.loads(part)
        except ValueError:
            return part

    value = parsed(text)
    if (isinstance(value, str) and "+" in text) or not settings.is_a(value, kind):
        value = tuple(map(parsed, text.split("+")))
    if not settings.is_a(value, kind):
        raise ValueError(f"expected {settings.called(kind)}, got {text!r}")
    return float(value) if kind is float else value


def _joined(value: tuple) -> str:
    return "+".join(map(str, value))


def present(name: str, base: Config):
    """The value of a setting, as Optuna knows it."""
    value = getattr(base.training if name in settings.SCHEDULE_KINDS else base, name)
    if name == "fmax" and value is None:
        return base.sample_rate / 2
    return _joined(value) if isinstance(value, tuple) else value


def as_settings(params: dict, base: Config) -> dict:
    """What Optuna drew, as `config.overridden` takes it.

    With other epochs, milestones and what else counts epochs move in proportion.
    """
    values, schedule = {}, {}
    for name, value in params.items():
        if isinstance(value, str):
            value = _value(name, value)
        (schedule if name in settings.SCHEDULE_KINDS else values)[name] = value
    if "epochs" in schedule:
        factor = schedule["epochs"] / base.training.epochs
        milestones = [round(factor * epoch) for epoch in base.training.milestones]
        schedule.setdefault("milestones", milestones)
        for name in ("keep_from", "stop_from"):
            if (epoch := getattr(base.training, name)) is not None:
                schedule.setdefault(name, int(factor * epoch))
    return {**values, "training": schedule} if schedule else values


def url(root: Path) -> str:
    """As `optuna-dashboard` takes it."""
    return f"sqlite:///{root / STUDY}"


@contextlib.contextmanager
def _of_optuna(root: Path) -> Iterator[None]:
    """InputError if the study's file is none of Optuna's."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{root / STUDY} is no study: move it away ({reason})") from error


def open_study(root: Path, experiment: str, source: dict, seed: int) -> optuna.Study:
    """The study of this source, begun or gone on with; those of others stay as they are.

    InputError if the file is none of Optuna's.
    """
    (root / STUDY).parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    source = json.loads(json.dumps(source))
    name = f"{experiment} {fingerprint(source)[1:]}"
    with _of_optuna(root):
        others = [one for one in all_studies(root) if one.study_name.startswith(f"{experiment} ")]
        study = optuna.create_study(
            storage=url(root), study_name=name, direction="maximize", load_if_exists=True
        )
    if others and not study.trials and "source" in others[-1].user_attrs:
        changes = ", ".join(differences(others[-1].user_attrs["source"], source))
        print(f"a study of its own, beside {len(others)} in {root / STUDY}: {changes}")
    study.set_user_attr("source", source)
    # Gone on with, it must not draw the same again.
    study.sampler = optuna.samplers.TPESampler(
        seed=seed + len(study.trials),
        n_startup_trials=FIRST_AT_RANDOM,
        constant_liar=True,  # workers try other settings than those that are under way
    )
    return study


def all_studies(root: Path) -> list:
    """What is in the file, that begun last at the end: `study_name`, `user_attrs` and so on."""
    if not (root / STUDY).exists():
        return []
    return optuna.get_all_study_summaries(url(root))


def begin(study: optuna.Study, over: dict[str, BaseDistribution], base: Config) -> None:
    """Before the first trial: it is that of the present settings, as far as they are in range.

    What an interruption left half done comes first.
    """
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    if not study.trials:
        known = {name: present(name, base) for name in over}
        study.enqueue_trial(
            {name: value for name, value in known.items() if _includes(over[name], value)}
        )


def _includes(values: BaseDistribution, value) -> bool:
    if isinstance(values, CategoricalDistribution):
        return value in values.choices
    return value is not None and values.low <= value <= values.high


def tried(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that came to an end, or were ended on the way to it; not impossible ones."""
    ended = study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])
    return [trial for trial in ended if trial.intermediate_values or KILLED in trial.user_attrs]


def best_first(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that came to an end."""
    complete = study.get_trials(states=[TrialState.COMPLETE])
    return sorted(complete, key=lambda trial: -trial.value)


def importances(study: optuna.Study) -> dict[str, float]:
    """How much of the differences in score each setting explains (fANOVA); {} where unknown."""
    try:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError):  # too few trials, or all scored the same
        return {}


def figures(study: optuna.Study) -> list:
    """What a report shows, as Plotly's figures: history, and, from two trials on, importance of the
    settings and how they go together.
    """
    drawn = [optuna.visualization.plot_optimization_history(study)]
    if importances(study):
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        drawn.append(optuna.visualization.plot_param_importances(study, evaluator=evaluator))
        drawn.append(optuna.visualization.plot_parallel_coordinate(study))
    return drawn


def latest_figures(root: Path) -> list:
    """`figures` of the latest study in an output folder, where there is one with a score."""
    with _of_optuna(root):
        studies = all_studies(root)
        if not studies:
            return []
        study = optuna.load_study(study_name=studies[-1].study_name, storage=url(root))
    return figures(study) if best_first(study) else []
