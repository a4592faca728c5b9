"""The command line that all stages share, and what it names: dataset, output folder, settings."""

import argparse
import contextlib
import errno
import fcntl
import functools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import config
from clips import dataset, demo
from fast import gpus, processes
from messages import InputError, MissingResult, PipelineError, short_of_memory
from runs import costs, settings
from runs.run import Run
from storage import lock

PROJECT = Path(__file__).resolve().parents[2]
MENDABLE = (  # what the system says about disks and folders
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR),
)
SMALLER = "end other programs, take --profile small, or lower batch_size by --settings"
STAGES = ("preprocess", "pretrain", "train", "predict", "ensemble", "report")


def prepare(args: argparse.Namespace) -> Run:
    """Read the dataset's tables, and find the settings that were asked for.

    Without a dataset in the default input folder, a synthetic one is made below the output folder.
    InputError if the dataset is faulty, or a profile, experiment or fold does not exist.
    """
    if scheduler := _scheduler(args):  # whose workers have other working folders
        args.output = args.output.resolve()
        args.input = args.input and args.input.resolve()
    root, demo_input = args.input or PROJECT / "input", args.output / "demo_input"
    synthetic = args.input is None and not dataset.is_present(root)
    profile = args.profile or ("demo" if synthetic else "published")
    for name in args.experiments or ():
        if name not in config.EXPERIMENTS:
            known = ", ".join(config.EXPERIMENTS)
            raise InputError(f"there is no experiment {name!r}; there are {known}")
    # In the table's order, however they were named: the same experiments are the same ensemble.
    chosen = args.experiments or config.PROFILES[profile].experiments
    chosen = [name for name in config.EXPERIMENTS if name in chosen]
    overrides = settings.read(args.settings) if args.settings else {}
    try:
        configs = config.experiments(profile, chosen, overrides)
    except ValueError as error:
        where = args.settings or f"profile {profile}, experiments {', '.join(chosen)}"
        raise InputError(f"{where}: {error}") from error
    sources = [chosen.pretrained_by for chosen in configs]
    for name in {*sources} - {*config.EXPERIMENTS}:
        raise InputError(f"code/config.py: pretrained_by={name!r} names no experiment")
    sources = config.experiments(profile, sources, overrides)
    _require_alike(config.COMMON_SETTINGS, configs, "an --output")
    _require_alike(config.PREPROCESSING_SETTINGS, [*configs, *sources], "an --output")
    n_folds = configs[0].n_folds
    for fold in args.folds or ():
        if not 0 <= fold < n_folds:
            raise InputError(f"there is no fold {fold}; profile {profile} has 0 to {n_folds - 1}")
    folds = sorted(set(args.folds)) if args.folds else list(range(n_folds))
    if synthetic:
        making = "using the" if demo_input.is_dir() else "making a"
        print(f"No dataset in {root}: {making} synthetic one in {demo_input}.")
        root = demo_input
        if not root.is_dir():
            demo.make_demo_dataset(root)
    clips = dataset.load(root)
    for pair in zip(configs, sources, strict=True) if len(clips["noisy"]) else ():
        _require_alike(config.PRETRAINED_SETTINGS, pair, "a pretraining (pretrained_by)")
    return Run(
        *(clips, args.output, profile, overrides, configs, folds),
        *(args.skip_unreadable, args.force, scheduler),
    )


def _scheduler(args: argparse.Namespace) -> dict:
    """Dask's, by address or by the file that it wrote; empty where none is named."""
    if args.scheduler_file:
        return {"scheduler_file": str(args.scheduler_file)}
    return {"address": args.scheduler} if args.scheduler else {}


def require_backend(configs: list[config.Config]) -> None:
    """InputError, before work starts, if one starts from waveforms and not on TensorFlow."""
    from solution.models import require_tensorflow  # here, not above: it imports Keras

    for chosen in configs:
        if chosen.frontend == "waveform":
            try:
                require_tensorflow(chosen)
            except ValueError as error:
                raise InputError(str(error)) from error


def _require_alike(names: tuple[str, ...], configs: list[config.Config], remedy: str) -> None:
    """InputError if experiments differ in one of these settings: each has to have its own remedy.

    One output folder holds one clip store and fold table; and a network goes on from the log-mels,
    and in the layers, of its pretraining.
    """
    for name in names:
        values = {getattr(chosen, name): chosen.name for chosen in configs}
        if len(values) > 1:
            found = ", ".join(f"{value} in {chosen}" for value, chosen in values.items())
            raise InputError(
                f"experiments differ in {name} ({found}): give each {remedy} of its own"
            )


def names(text: str) -> list[str]:
    """ "a,b" -> ["a", "b"]; argparse calls a faulty value by the name of this function."""
    found = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not found:
        raise ValueError("an empty list")
    return found


def number(text: str) -> int:
    """One at least; argparse says what is wrong with others."""
    with contextlib.suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")


def numbers(text: str) -> list[int]:
    """ "0,3" -> [0, 3]; argparse says what is wrong with others."""
    try:
        return [int(number) for number in names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers, as 0,3, not {text!r}") from None


def parser(
    description: str, experiments: str = "the profile's", folds: str = "all"
) -> argparse.ArgumentParser:
    """The options that all stages have; of two of them the default, in words."""
    common = argparse.ArgumentParser(description=description)
    common.add_argument("--input", type=Path, metavar="DIR", help="the dataset (default: input/)")
    common.add_argument(
        "--profile",
        choices=config.PROFILES,
        help="table of settings (default: published, or demo where input/ holds no dataset)",
    )
    common.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="JSON of settings that differ from the profile's, as search writes it",
    )
    add_output_option(common, "where results go")
    add_choice_options(common, experiments, folds)
    common.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out training clips that cannot be decoded",
    )
    common.add_argument(
        "--force",
        action="store_true",
        help="make results again that are there already, and those half made from their start",
    )
    cluster = common.add_mutually_exclusive_group()
    cluster.add_argument(
        "--scheduler", metavar="ADDRESS", help="the Dask scheduler whose workers take part"
    )
    cluster.add_argument(
        "--scheduler-file", type=Path, metavar="FILE", help="the same, by the file that it wrote"
    )
    return common


def add_output_option(parser: argparse.ArgumentParser, what: str) -> None:
    """The output folder, in words: where results go, or where they are."""
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        default=PROJECT / "output",
        help=f"{what} (default: output/)",
    )


def add_choice_options(parser: argparse.ArgumentParser, experiments: str, folds: str) -> None:
    """Which experiments and folds, and in words which ones by default."""
    parser.add_argument(
        "--experiments",
        type=names,
        metavar="A,B",
        help=f"of {', '.join(config.EXPERIMENTS)} (default: {experiments})",
    )
    parser.add_argument(
        "--folds", type=numbers, metavar="0,3", help=f"folds to work on (default: {folds})"
    )


def stage(main: Callable[[Run], None]) -> Callable[[], None]:
    """Make a stage of a function: arguments in, and errors that the user can mend as one line."""

    @functools.wraps(main)
    def run_stage() -> None:
        module = sys.modules[main.__module__]
        start(parser(module.__doc__), Path(module.__file__).stem, lambda run, args: main(run))

    return run_stage


def start(
    parser: argparse.ArgumentParser, name: str, main: Callable[[Run, argparse.Namespace], None]
) -> None:
    """Call `main` with what the command line asks for, while the output folder is held.

    name : of the stage, under which its costs are noted
    """
    args = parser.parse_args()
    if "RUN_SH_PROCESS" in os.environ:  # where that is killed, nobody else ends this stage
        processes.end_with((socket.gethostname(), int(os.environ["RUN_SH_PROCESS"])))
    without = " without --force" if args.force else ""
    with (
        errors_in_one_line(f"the same command{without} goes on from here", SMALLER),
        locked(args.output),
    ):
        run = prepare(args)
        try:
            with costs.recorded(run, name):
                main(run, args)
        except MissingResult as error:
            if args.profile or args.settings or not (args.output / "models").exists():
                raise
            said = f"{error}. Or name the --profile and --settings of what is there:"
            raise MissingResult(f"{said} this is --profile {run.profile}") from error


@contextlib.contextmanager
def errors_in_one_line(then: str, memory: str = "end other programs") -> Iterator[None]:
    """What the user can mend becomes one line and status 1; an interruption one, and status 130.

    then : what the user may do after an interruption, or when it is mended
    memory : what the user may do where memory does not suffice
    """
    interruptions = []

    def interrupt(number, frame):
        # Of Ctrl-C run.sh makes a second signal, another one, which is not to end the cleaning up.
        again = number in interruptions
        interruptions.append(number)
        if again or len(interruptions) == 1:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # In a log, too, each line is there when it is printed; and names may hold what the
            # terminal cannot show.
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        # joblib makes a RuntimeError of an interruption while it starts processes.
        if interruptions or isinstance(error, KeyboardInterrupt):
            print(f"\nstopped; {then}", file=sys.stderr)
            sys.exit(130)
        line = _in_one_line(error, then, memory)
        if line is None:
            raise
        sys.exit(line)


def _open_closed_streams() -> None:
    """Libraries count on output and error; and the next file that is opened would become them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _in_one_line(error: Exception, then: str, memory: str) -> str | None:
    """What to tell the user of an error that the user can mend; None of others."""
    if isinstance(error, PipelineError):
        return f"error: {error}"
    if isinstance(error, BrokenPipeError):  # `| head` has seen enough
        discard_output()
        return f"stopped: nobody reads the output any more; {then}"
    if short_of_memory(error):
        return f"error: there is not enough memory: {memory}; {then}"
    if isinstance(error, OSError) and (
        error.errno in MENDABLE or "No space left" in str(error)  # so says HDF5
    ):
        place = f" ({error.filename})" if error.filename else ""
        reason = error.strerror or "No space left on device"
        return f"error: {reason}{place}; mend that, and {then}"
    return None


def discard_output() -> None:
    """Print no more: nobody reads standard output, and what is still to be flushed would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the output folder; the lock goes with the process, however that ends.

    Below run.sh it is that script's lock, which stays from the first stage to the last.
    PipelineError if another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        descriptor = int(os.environ.get("RUN_SH_LOCK", file.fileno()))
        os.set_inheritable(descriptor, False)
        try:
            if not lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                print(
                    f"warning: {folder} is on a disk without locks: start no second run on "
                    f"it, and use one GPU ({gpus.VISIBLE}=0)",
                    file=sys.stderr,
                )
        except BlockingIOError:
            file.seek(0)
            raise PipelineError(
                f"{folder} is in use by {file.read().strip()}: wait for it, stop it, "
                "or name another --output"
            ) from None
        file.truncate(0)
        process = os.getppid() if "RUN_SH_LOCK" in os.environ else os.getpid()
        file.write(f"process {process} on {socket.gethostname()}, since {time.ctime()}")
        file.flush()
        yield
