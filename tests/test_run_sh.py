"""run.sh as a user meets it, with stand-ins for Python, pip and the stages: no network, no time.

The stand-in for Python is a shell script that notes what it is asked to do. A private PATH holds
it, so nothing of the machine's own Python or GPU is seen.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from messages import PipelineError
from runs import command_line

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("preprocess", "pretrain", "train", "predict", "ensemble", "report")
OPTIONS = (
    "--input",
    "--output",
    "--profile",
    "--settings",
    "--experiments",
    "--folds",
    "--skip-unreadable",
    "--force",
    "--no-venv",
)
TOOLS = ("awk", "cat", "cksum", "cp", "df", "dirname", "find", "grep", "id", "ls", "mkdir", "rm")
TOOLS += ("sed", "tail", "tr", "uname")
SHELLS = [shell for shell in ("sh", "dash", "bash", "busybox") if shutil.which(shell)]

# What run.sh asks of Python, answered from variables: VERSION, LACKS (modules), FAILS (a stage or a
# step of ruff), PIP_SAYS (before it fails), PIP_LISTS, ELSEWHERE (where pip puts packages).
# Code that is read from standard input (which packages are missing?) is left to the real Python,
# which first reads what is in the folder HIDES; but once pip has been there, none is.
FAKE_PYTHON = f"""#!/bin/sh
case $1 in
    -c)
        case $2 in
            *version_info*) echo "${{VERSION-3.11}}" ;;
            *"import venv"*) case ${{LACKS-}} in *venv*) exit 1 ;; esac ;;
            *"import pip"*) case ${{LACKS-}} in *pip*) exit 1 ;; esac ;;
            *fcntl*) exec '{sys.executable}' -c "$2" ;;
        esac
        ;;
    -)
        test ! -e "$0.filled" || exit 0
        PYTHONPATH=${{HIDES-${{PYTHONPATH-}}}} exec '{sys.executable}' "$@" ;;
    -m)
        shift
        echo "$*" >>"$LOG"
        case $1 in
            venv)
                for last in "$@"; do :; done
                test -z "${{VENV_SAYS-}}" || {{ echo "$VENV_SAYS" >&2; exit 1; }}
                mkdir -p "$last/bin"
                echo "prompt = '$4'" >"$last/pyvenv.cfg"
                cp "$0" "$last/bin/python"
                ;;
            ensurepip) case ${{LACKS-}} in *ensurepip*) exit 1 ;; esac ;;
            pip)
                if [ "$2" = list ]; then
                    echo "${{PIP_LISTS-pip==25.0}}"
                    exit
                fi
                for argument in "$@"; do
                    case $argument in
                        /dev/stdin) sed 's/^/pin: /' >>"$LOG" ;;
                        /dev/fd/*) sed 's/^/held: /' "$argument" >>"$LOG" ;;
                    esac
                done
                test -z "${{PIP_SAYS-}}" || {{ echo "$PIP_SAYS" >&2; exit 1; }}
                case $0 in *.venv*) test -n "${{ELSEWHERE-}}" || : >"$0.filled" ;; esac
                ;;
            ruff) test "$2" != "${{FAILS-}}" || exit 1 ;;
        esac
        ;;
    *)
        stage=${{1##*/}}
        shift
        printf '%s' "$stage" >>"$LOG"
        for argument in "$@"; do printf ' [%s]' "$argument" >>"$LOG"; done
        echo >>"$LOG"
        test "$stage" != "${{FAILS-}}.py" || exit 7
        ;;
esac
"""


def write_executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Project:
    """A copy of run.sh in a folder whose name has a space, and a machine to run it on."""

    def __init__(self, folder: Path):
        self.root = folder / "my project"
        self.bin = folder / "bin"
        self.log = folder / "log"
        self.elsewhere = folder / "elsewhere"
        self.shell = "sh"
        for path in (self.root / "code", self.root / "tests", self.bin, self.elsewhere):
            path.mkdir(parents=True)
        for name in ("run.sh", "requirements.txt", "tests/requirements.txt"):
            shutil.copy(ROOT / name, self.root / name)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        write_executable(self.bin / "python3", FAKE_PYTHON)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        self.log.write_text("")
        return subprocess.run(
            self.command(*arguments),
            cwd=self.elsewhere,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def command(self, *arguments: str) -> list[str]:
        shell = [shutil.which(self.shell)] + ["sh"] * (self.shell == "busybox")
        return [*shell, str(self.root / "run.sh"), *arguments]

    def environment(self, **variables: str) -> dict[str, str]:
        return {
            "PATH": str(self.bin),
            "HOME": str(self.elsewhere),
            "LOG": str(self.log),
        } | variables

    def logged(self, word: str = "") -> list[str]:
        return [line for line in self.log.read_text().splitlines() if word in line]

    def set_pin(self, before: str, after: str) -> None:
        path = self.root / "requirements.txt"
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    @property
    def stamp(self) -> Path:
        return self.root / ".venv" / ".run-sh-requirements.txt"


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture
def installed(project):
    """The project after a first run."""
    assert project.run().returncode == 0
    return project


def hidden_packages(project: Project) -> dict[str, str]:
    """Variables with which the real Python that answers what is missing finds no package."""
    hides = project.elsewhere / "hides"
    hides.mkdir(exist_ok=True)
    (hides / "sitecustomize.py").write_text(
        "import importlib.metadata, importlib.util\n"
        "importlib.metadata.distributions = lambda name: []\n"
        "importlib.util.find_spec = lambda name: None\n"
    )
    return {"HIDES": str(hides)}


def assert_one_line(done: subprocess.CompletedProcess, *words: str, status: int = 1) -> None:
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("run.sh: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


# ---- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_at_hand_runs_the_whole_pipeline(project, shell):
    project.shell = shell
    done = project.run("--folds", "0,1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [line.split(".")[0] for line in project.logged(".py ")] == list(STAGES)


def test_help_names_every_stage_and_option_and_installs_nothing(project):
    done = project.run("--help")
    assert done.returncode == 0
    profiles = ("published", "small", "best", "demo")
    for word in (*STAGES, *OPTIONS, *profiles, "search", "test", "PYTHON="):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert project.run("train", "-h").stdout == done.stdout
    assert project.logged() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        [""],
        ["train", "predict"],
        ["--fold", "0"],
        ["--fold=0"],
        ["--input", "a", "b"],
        ["--input"],
        ["--folds", "", "--force"],
        ["--output="],
        ["--force=1"],
    ],
)
def test_mistaken_arguments_are_one_line_before_anything_is_installed(project, arguments):
    assert_one_line(project.run(*arguments), "--help", status=2)
    assert project.logged() == []


def test_arguments_reach_every_stage_unchanged(project):
    arguments = ["--input", "my clips/*", "--output=an output", "--skip-unreadable"]
    arguments += ["--settings", "a:", "--force"]
    done = project.run(*arguments)
    assert done.returncode == 0
    expected = "".join(f" [{argument}]" for argument in arguments)
    assert project.logged(".py") == [f"{stage}.py{expected}" for stage in STAGES]


def test_values_may_follow_an_equals_sign(project):
    arguments = ["--input=a", "--output=b", "--profile=demo", "--experiments=se", "--folds=0"]
    assert project.run("train", *arguments).returncode == 0
    assert project.logged(".py") == [" ".join(["train.py", *(f"[{a}]" for a in arguments)])]


def test_one_stage_runs_alone(project):
    assert project.run("train", "--experiments", "v1mix", "--folds", "0,1").returncode == 0
    assert project.logged(".py") == ["train.py [--experiments] [v1mix] [--folds] [0,1]"]


@pytest.mark.parametrize("script", ["tag", "kernel", "search"])
def test_scripts_get_the_rest_of_the_line_unchanged(project, script):
    done = project.run("--no-venv", script, "a b.wav", "--top", "3", "--help")
    assert done.returncode == 0, done.stderr
    assert project.logged(".py ")[-1] == f"{script}.py [a b.wav] [--top] [3] [--help]"
    assert project.run(script, FAILS=script).returncode == 7


def test_nothing_but_a_scripts_own_words_is_on_standard_output(project):
    done = project.run("tag", "a.wav")
    assert done.stdout == ""
    assert "Installing requirements.txt" in done.stderr


def test_stops_at_the_first_stage_that_fails_with_its_status(project):
    done = project.run(FAILS="train")
    assert done.returncode == 7
    assert project.logged(".py") == ["preprocess.py", "pretrain.py", "train.py"]
    assert project.run(FAILS="ensemble").returncode == 7


def test_prints_nothing_of_its_own_once_installed(installed):
    done = installed.run()
    assert (done.stdout, done.stderr) == ("", "")


def test_the_callers_folder_stays_the_current_one(project):
    write_executable(project.bin / "python3", FAKE_PYTHON.replace("stage=", "pwd >>$LOG; stage="))
    project.run("predict")
    assert str(project.elsewhere) in project.logged()


def test_interrupt_ends_the_stage_and_starts_no_other(installed):
    python = installed.root / ".venv/bin/python"
    python.write_text(FAKE_PYTHON.replace("stage=", "echo $$ >>$LOG; exec sleep 20; stage="))
    (installed.bin / "sleep").symlink_to(shutil.which("sleep"))
    installed.log.write_text("")
    running = subprocess.Popen(
        installed.command(),
        env=installed.environment(),
        start_new_session=True,
        # Also where these tests are a job in the background, which ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 10
    while not installed.logged() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)  # what a terminal does at Ctrl-C
    assert running.wait(timeout=5) != 0
    (stage,) = installed.logged()
    with pytest.raises(ProcessLookupError):
        os.kill(int(stage), 0)


def test_stages_know_which_others_run(installed):
    telling = FAKE_PYTHON.replace("stage=", 'echo "of: $RUN_SH_STAGES" >>$LOG; stage=', 1)
    (installed.root / ".venv/bin/python").write_text(telling)
    for arguments, stages in ((["train"], "train"), ([], " ".join(STAGES))):
        installed.log.write_text("")
        installed.run(*arguments)
        assert set(installed.logged("of: ")) == {f"of: {stages}"}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_signal_to_the_shell_alone_ends_the_stage_too(installed, shell):
    installed.shell = shell
    python = installed.root / ".venv/bin/python"
    python.write_text(FAKE_PYTHON.replace("stage=", "echo $$ >>$LOG; exec sleep 20; stage="))
    (installed.bin / "sleep").symlink_to(shutil.which("sleep"))
    installed.log.write_text("")
    running = subprocess.Popen(installed.command(), env=installed.environment())
    deadline = time.monotonic() + 10
    while not installed.logged() and time.monotonic() < deadline:
        time.sleep(0.02)
    running.terminate()
    assert running.wait(timeout=5) == 130
    (stage,) = installed.logged()
    with pytest.raises(ProcessLookupError):
        os.kill(int(stage), 0)


@pytest.mark.parametrize("argument", [["--output", "mine"], ["--output=mine"]])
def test_the_output_folder_stays_locked_between_two_stages(installed, argument):
    """The first stage locks it and ends, as stages do; the second, here, never does."""
    locks = (
        f"import pathlib, sys; sys.path.insert(0, '{ROOT / 'code'}'); "
        "from runs import command_line;"
        "command_line.locked(pathlib.Path('mine')).__enter__()"
    )
    stage = f"""case $1 in
        *preprocess.py) exec '{sys.executable}' -c "{locks}" ;;
        *) echo $$ >>$LOG; exec sleep 20 ;;
    esac
    stage="""
    (installed.root / ".venv/bin/python").write_text(FAKE_PYTHON.replace("stage=", stage, 1))
    (installed.bin / "sleep").symlink_to(shutil.which("sleep"))
    installed.log.write_text("")
    folder = installed.elsewhere / "mine"
    running = subprocess.Popen(
        installed.command(*argument), cwd=installed.elsewhere, env=installed.environment()
    )
    while not installed.logged() and running.poll() is None:
        time.sleep(0.02)
    with (
        pytest.raises(PipelineError, match=f"mine is in use by process {running.pid} on"),
        command_line.locked(folder),
    ):
        pass
    running.terminate()
    running.wait(timeout=5)
    with command_line.locked(folder):
        pass


@pytest.mark.parametrize("shell", SHELLS)
def test_a_folder_that_cannot_be_locked_is_left_to_the_first_stage(installed, shell):
    installed.shell = shell
    (installed.elsewhere / "mine" / ".lock").mkdir(parents=True)
    assert installed.run("preprocess", "--output", "mine").returncode == 0
    assert installed.logged("preprocess.py")


# ---- installing ---------------------------------------------------------------------------------


def test_first_run_says_what_it_installs_and_the_second_installs_nothing(project):
    first = project.run(**hidden_packages(project))
    assert "Installing" in first.stdout
    assert "GB to download" in first.stdout
    assert first.stdout.count("\n") == 1
    assert len(project.logged("pip install")) == 1
    wanted = (project.root / "requirements.txt").read_text().splitlines()
    assert project.logged("pin: ") == [f"pin: {line}" for line in wanted]
    assert project.run().stdout == ""
    assert project.logged("pip") == project.logged("venv") == []


def test_packages_that_pip_put_elsewhere_are_not_taken_for_installed(project):
    hidden = hidden_packages(project)
    done = project.run(**hidden, ELSEWHERE="1")
    assert done.returncode == 1
    assert "run.sh: pip put the packages elsewhere: see target in 'pip config list'" in done.stderr
    assert not project.stamp.exists()
    assert project.run(**hidden).returncode == 0


@pytest.mark.parametrize("shell", SHELLS)
def test_of_two_first_runs_one_waits_until_the_other_has_installed(project, shell):
    project.shell = shell
    project.log.write_text("")
    with (project.root / "run.sh").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a run that installs
        second = subprocess.Popen(
            project.command(), env=project.environment(), stdout=subprocess.PIPE, text=True
        )
        assert second.stdout.readline().startswith("Waiting for an installation")
        time.sleep(0.2)
        assert project.logged() == []
    assert second.wait(timeout=10) == 0
    assert [line.split(".")[0] for line in project.logged(".py")] == list(STAGES)


def test_stages_do_not_hold_the_lock_of_installations(installed):
    python = installed.root / ".venv/bin/python"
    python.write_text(FAKE_PYTHON.replace("stage=", "(: <&8) 2>/dev/null && exit 9; stage="))
    with (installed.root / "run.sh").open() as lock:
        assert installed.run("predict").returncode == 0
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_changed_pins_are_installed(installed):
    installed.set_pin("tqdm==", "tqdm>=")
    installed.run()
    assert len(installed.logged("pip install")) == 1
    assert installed.logged("venv --clear") == []


def test_another_python_version_in_the_environment_installs_anew(installed):
    installed.run(VERSION="3.12")
    assert len(installed.logged("pip install")) == 1


NO_MATCH = """ERROR: Ignored the following versions that require a different Python: 1, 2, 3
ERROR: No matching distribution found for tensorflow"""
NO_NETWORK = """WARNING: Retrying after connection broken by 'NewConnectionError: no route to host'
ERROR: No matching distribution found for tensorflow"""
SYSTEMS_OWN = """error: externally-managed-environment

This environment is externally managed
hint: See PEP 668 for the detailed specification."""
DISK_FULL = (
    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
)


def test_failed_pip_is_one_line_and_is_tried_again(installed):
    installed.set_pin("tqdm==", "tqdm>=")
    done = installed.run(PIP_SAYS=NO_NETWORK)
    assert_one_line(done, "requirements.txt: ERROR: No matching distribution found for tensorflow")
    assert installed.logged(".py") == []
    assert not installed.stamp.exists()
    installed.run()
    assert len(installed.logged("pip install")) == 1
    assert installed.stamp.exists()


@pytest.mark.parametrize(
    ("says", "reason", "advice"),
    [
        (NO_NETWORK, "No matching distribution found", "network"),
        ("ERROR: HTTPSConnectionPool(host='x'): Read timed out.", "Read timed out", "network"),
        (NO_MATCH, "No matching distribution found", ""),
        (SYSTEMS_OWN, "externally-managed-environment", "--no-venv"),
        (DISK_FULL, "No space left", ""),
        ("/usr/bin/python3: No module named pip", "No module named pip", ""),
    ],
)
def test_only_where_the_network_failed_is_it_blamed(project, says, reason, advice):
    (project.root / "requirements.txt").write_text("no-such-package==1\n")
    done = project.run("--no-venv", PIP_SAYS=says)
    assert_one_line(done, reason, advice)
    assert ("network" in done.stderr) == (advice == "network")


def test_broken_environment_of_ours_is_made_again(installed):
    (installed.root / ".venv/bin/python").unlink()
    assert installed.run().returncode == 0
    assert installed.logged("venv --clear")


def test_environment_of_somebody_elses_in_its_place_is_used(project):
    write_executable(project.root / ".venv/bin/python", FAKE_PYTHON)
    assert project.run().returncode == 0
    assert project.logged("venv --clear") == []
    assert len(project.logged("pip install")) == 1


@pytest.mark.parametrize(
    "python", [None, "#!/bin/sh\nexit 1\n", FAKE_PYTHON.replace("VERSION-3.11", "VERSION-3.13")]
)
def test_environment_of_somebody_elses_is_never_cleared(project, python):
    """Not even after it worked, so that packages were installed into it."""
    theirs = project.root / ".venv/bin/python"
    write_executable(theirs, FAKE_PYTHON)
    (project.root / ".venv/pyvenv.cfg").write_text("home = /usr/bin\nprompt = 'theirs'\n")
    assert project.run().returncode == 0
    theirs.unlink()
    if python:
        write_executable(theirs, python)
    assert_one_line(project.run(), f"{project.root}/.venv", "move it away")
    assert project.logged("venv --clear") == []
    assert project.stamp.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder to another user")
def test_environment_that_another_user_made_is_never_cleared(installed):
    (installed.root / ".venv/bin/python").unlink()  # of which this user has none
    os.chown(installed.root / ".venv", 54321, 54321)
    assert_one_line(installed.run(), ".venv has Python that fails for this user", "move it away")
    assert installed.stamp.exists()


def test_an_empty_folder_in_its_place_is_filled(project):
    """A mounted volume, for instance."""
    (project.root / ".venv").mkdir()
    assert project.run().returncode == 0


def test_environment_without_pip_gets_it(installed):
    """uv makes such; so does an interruption while pip is unpacked."""
    assert installed.run(LACKS="pip").returncode == 0
    assert installed.logged("ensurepip")
    assert_one_line(installed.run(LACKS="pip ensurepip"), ".venv has no pip")


CALLERS = {
    "PYTHONPATH": "/theirs",
    "PYTHONHOME": "/theirs",
    "PIP_USER": "1",
    "PIP_TARGET": "/theirs",
}
CALLERS |= {"PYTHONSAFEPATH": "1"}


@pytest.mark.parametrize("use_venv", [True, False])
def test_the_callers_settings_do_not_break_the_environment(project, use_venv):
    shows = " ".join(f"{name}=${{{name}-}}" for name in CALLERS)
    telling = FAKE_PYTHON.replace('echo "$*"', f'echo "$* {shows}"')
    write_executable(
        project.bin / "python3", telling.replace("stage=", f"echo {shows} >>$LOG;stage=")
    )
    options = [] if use_venv else ["--no-venv"]
    (project.root / "requirements.txt").write_text("no-such-package==1\n")
    # The real Python, which is asked what is missing, would not start with that home.
    callers = {**CALLERS, "PYTHONHOME": ""} if not use_venv else CALLERS
    assert project.run("train", *options, **callers).returncode == 0
    for line in (project.logged("pip install")[0], project.logged("PYTHONPATH=")[-1]):
        kept = "" if use_venv else "/theirs"  # Kaggle and Colab have packages there
        assert f"PYTHONPATH={kept} PYTHONHOME= PIP_USER={'no' if use_venv else '1'} " in line
        assert f" PIP_TARGET={kept} " in line
        assert line.endswith("PYTHONSAFEPATH="), "the stages import what is beside them"


def test_gpu_brings_cuda_libraries_of_the_pinned_tensorflow(project):
    write_executable(project.bin / "nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H100'\n")
    project.set_pin("tensorflow==2.20.0", "tensorflow==2.20.9")
    assert "CUDA" in project.run(**hidden_packages(project)).stdout
    assert project.logged("tensorflow") == ["pin: tensorflow[and-cuda]==2.20.9"]
    # The last that serves the published run's GPU, a P100.
    assert project.logged("held: ") == ["held: nvidia-cudnn-cu12==9.10.2.21"]
    assert project.run().stdout == ""
    (project.bin / "nvidia-smi").unlink()
    assert project.run().stdout == "", "CUDA libraries may stay where the GPU is out of sight"


def test_gpu_that_appears_later_brings_cuda_libraries(installed):
    write_executable(installed.bin / "nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H100'\n")
    installed.run()
    assert installed.logged("and-cuda")


def test_other_processors_than_x86_get_no_cuda_libraries(project):
    """TensorFlow's wheels for them are for CPUs."""
    write_executable(project.bin / "nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA GH200'\n")
    (project.bin / "uname").unlink()
    write_executable(project.bin / "uname", "#!/bin/sh\necho aarch64\n")
    project.run()
    assert project.logged("pip install")
    assert project.logged("and-cuda") == []


def test_driver_without_a_gpu_brings_no_cuda_libraries(project):
    failure = "#!/bin/sh\necho 'NVIDIA-SMI has failed: GPU is lost'\nexit 9\n"
    write_executable(project.bin / "nvidia-smi", failure)
    project.run()
    assert project.logged("and-cuda") == []


def test_active_environment_is_used(project):
    active = project.elsewhere / "my env"
    write_executable(active / "bin/python", FAKE_PYTHON)
    assert project.run("train", VIRTUAL_ENV=str(active)).returncode == 0
    assert project.run("train", CONDA_PREFIX=str(active)).returncode == 0
    assert project.logged("pip") == []
    assert not (project.root / ".venv").exists()
    done = project.run(VIRTUAL_ENV=str(active), VERSION="3.13")
    assert_one_line(done, str(active), "3.13", "deactivate")


def test_condas_base_is_left_alone(project):
    base = project.elsewhere / "conda"
    write_executable(base / "bin/python", FAKE_PYTHON)
    project.run("train", CONDA_PREFIX=str(base), CONDA_DEFAULT_ENV="base")
    assert (project.root / ".venv").exists()


# ---- what the machine lacks ---------------------------------------------------------------------


def test_no_python_is_one_line(project):
    (project.bin / "python3").unlink()
    assert_one_line(project.run(), "needs Python 3.10, 3.11 or 3.12", "found none")


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.13", "3.100", "4.0"])
def test_unsuitable_python_is_one_line_that_names_it(project, version):
    assert_one_line(project.run(VERSION=version), f"python3 is {version}")


def test_the_first_suitable_python_that_works_is_chosen(project):
    write_executable(project.bin / "python3", "#!/bin/sh\necho 'not installed' >&2\nexit 127\n")
    write_executable(project.bin / "python3.12", FAKE_PYTHON.replace("VERSION-3.11", "VERSION-3.9"))
    write_executable(project.bin / "python3.11", FAKE_PYTHON)
    assert project.run().returncode == 0
    assert "python3.11" in project.stamp.read_text()


def test_python3_is_preferred_to_other_versions(project):
    write_executable(
        project.bin / "python3.12", FAKE_PYTHON.replace("VERSION-3.11", "VERSION-3.12")
    )
    project.run()
    assert "python3.11" in project.stamp.read_text()


def test_python_variable_overrides(project):
    other = project.elsewhere / "other python"
    write_executable(other, FAKE_PYTHON.replace("VERSION-3.11", "VERSION-3.10"))
    assert project.run(PYTHON=str(other)).returncode == 0
    assert "python3.10" in project.stamp.read_text()
    shutil.rmtree(project.root / ".venv")
    assert_one_line(project.run(PYTHON="/nowhere/python"), "PYTHON=/nowhere/python")


def test_missing_venv_module_is_one_line(project):
    assert_one_line(project.run(LACKS="venv"), "python3.11-venv")
    assert not (project.root / ".venv").exists()


def test_environment_that_cannot_be_made_is_one_line(project):
    says = "Traceback\nError: [Errno 30] Read-only file system"
    assert_one_line(
        project.run(VENV_SAYS=says), "cannot make", ".venv: Error: [Errno 30] Read-only"
    )


def test_too_little_disk_space_is_one_line(project):
    (project.bin / "df").unlink()
    table = (
        "Filesystem 1024-blocks Used Available Capacity Mounted on\n//my nas/a 9 8 3199999 90% /x y"
    )
    write_executable(project.bin / "df", f"#!/bin/sh\necho '{table}'\n")
    assert_one_line(project.run(**hidden_packages(project)), "3199 MB", ".venv")
    assert not project.stamp.exists()
    (project.bin / "df").write_text(f"#!/bin/sh\necho '{table.replace('3199999', '3200000')}'\n")
    assert project.run(**hidden_packages(project)).returncode == 0


# ---- --no-venv ----------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--no-venv", "train"], ["train", "--no-venv"]])
def test_no_venv_installs_nothing_where_nothing_is_missing(project, arguments):
    (project.root / "requirements.txt").write_text("# ours\npytest==0.1  # note\n")
    assert project.run(*arguments, PIP_SAYS="no", VERSION="3.13").returncode == 0
    assert project.logged() == ["train.py"]
    assert not (project.root / ".venv").exists()


def test_no_venv_installs_what_is_missing_and_holds_the_rest(project):
    pins = "no-such-package==1  # note\npytest==0.1\nother-name==2; python_version > '3'\n"
    (project.root / "requirements.txt").write_text(pins)
    lists = "pytest==9.1\ntorch==2.5.1+cu124\ngpg==1.16.0-unknown\nnvidia-cudnn-cu12==9.1.0.70"
    done = project.run("--no-venv", PIP_LISTS=lists)
    assert "no-such-package==1" in done.stdout
    assert "pytest" not in done.stdout
    assert project.logged("pin: ") == [
        "pin: no-such-package==1",
        "pin: other-name==2; python_version > '3'",
    ]
    # pip would refuse the version of gpg, which is not of Python's own form.
    assert project.logged("held: ") == [
        "held: pytest==9.1",
        "held: torch==2.5.1+cu124",
        "held: nvidia-cudnn-cu12==9.1.0.70",
    ]
    project.run("--no-venv")
    assert project.logged("held: ") == ["held: pip==25.0", "held: nvidia-cudnn-cu12==9.10.2.21"]
    assert project.run("--no-venv", PIP_SAYS="no").returncode == 1


def test_no_venv_knows_packages_by_either_name(project):
    """scikit-learn by its distribution's, tensorflow (from tensorflow-cpu, say) by its module's."""
    pins = "scikit-learn==1\nprotobuf==1\niterative-stratification==1\nml-dtypes==1\n"
    package = project.elsewhere / "their packages"
    write_executable(package / "no_such_tensorflow/__init__.py", "")
    (project.root / "requirements.txt").write_text(pins + "no-such-tensorflow==1\n")
    assert project.run("--no-venv", PYTHONPATH=str(package), PIP_SAYS="no").returncode == 0


def test_no_venv_takes_kapre_without_the_versions_it_asks_for(project):
    (project.root / "requirements.txt").write_text("kapre==99\n")
    project.run("--no-venv", **hidden_packages(project))
    command, pin, held = project.logged()[-9:-6]  # before the six stages
    assert "--no-deps" in command
    assert (pin, held) == ("pin: kapre==99", "held: ")


def test_no_venv_is_not_misled_by_the_callers_folders(project):
    (project.elsewhere / "no_such_package").mkdir()
    (project.elsewhere / "no_such_package/__init__.py").write_text("")
    (project.root / "requirements.txt").write_text("no-such-package==1\n")
    project.run("--no-venv")
    assert project.logged("pip install")


# ---- sh run.sh test -----------------------------------------------------------------------------


def test_test_lints_checks_the_format_and_passes_arguments_to_pytest(project):
    done = project.run("test", "tests/a b.py", "-k", "x")
    assert done.returncode == 0, done.stderr
    assert [line for line in project.logged() if line.startswith(("ruff", "pytest "))] == [
        "ruff check code tests",
        "ruff format --check code tests",
        "pytest tests/a b.py -k x",
    ]
    assert len(project.logged("pip install")) == 2
    project.run("test")
    assert project.logged("pip") == []


@pytest.mark.parametrize("step", ["check", "format"])
def test_test_stops_at_what_ruff_finds(project, step):
    assert project.run("test", FAILS=step).returncode == 1
    assert project.logged("pytest ") == []


# ---- the files it goes with ---------------------------------------------------------------------


def test_tensorflow_version_is_in_requirements_only():
    pins = (ROOT / "requirements.txt").read_text()
    assert pins.count("\ntensorflow==") == 1
    assert "2.20" not in (ROOT / "run.sh").read_text()
