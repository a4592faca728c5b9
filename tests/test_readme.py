"""The README's commands, options, modules and files are those of the project."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import config
import kernel
import tag
from runs import command_line

SCRIPTS = {"tag": tag._parser(), "kernel": kernel._parser()}
PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text()


def test_commands_are_understood():
    commands = re.findall(
        r"^sh run\.sh.*$", "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S)), re.M
    )
    assert len(commands) >= 7
    parser = command_line._parser("")
    for command in commands:
        words = shlex.split(command, comments=True)[2:]
        if words and not words[0].startswith("-"):
            stage = words.pop(0)
            assert stage == "test" or (PROJECT / "code" / f"{stage}.py").is_file()
            if stage in SCRIPTS:
                SCRIPTS[stage].parse_args(words)
                continue
        parser.parse_args(words)


def options_of(parser):
    return {option for action in parser._actions for option in action.option_strings}


def test_every_option_is_explained():
    script = (PROJECT / "run.sh").read_text()
    for option in options_of(command_line._parser("")):
        assert option in script, option
    of_scripts = set().union(*map(options_of, SCRIPTS.values()))
    for option in re.findall(r"`(--[a-z-]+)", README):
        assert option in script or option in of_scripts, option
    for option in of_scripts - {"-h", "--help", "--no-gpu", "--output"}:
        assert f"`{option}" in README or f" {option} " in README, option


def test_the_benchmark_starts():
    script = PROJECT / "tests" / "benchmark.py"
    done = subprocess.run([sys.executable, script, "x"], capture_output=True, text=True)
    assert "there is no part 'x'; there are features, preprocessing" in done.stderr


def test_every_module_profile_and_experiment_is_named():
    for path in (PROJECT / "code").glob("*.py"):
        assert f"`{path.stem}`" in README or f"`{path.name}`" in README, path.name
    for name in ({*config.PROFILES} - {"tiny"}) | {*config.EXPERIMENTS}:  # tiny is the tests' own
        assert f"`{name}`" in README, name


def test_top_level_is_as_designed():
    allowed = {
        "LICENSE",
        "README.md",
        "code",
        "input",
        "output",
        "requirements.txt",
        "run.sh",
        "tests",
    }
    found = {path.name for path in PROJECT.iterdir() if not path.name.startswith(".")}
    assert found <= allowed
    # Its name would hide the standard library's module of that name.
    assert not (PROJECT / "code" / "__init__.py").exists()


def test_no_library_module_imports_a_stage():
    stages = "|".join((*command_line.STAGES, *SCRIPTS, "kaggle_script"))
    for path in (PROJECT / "code").rglob("*.py"):
        assert not re.search(rf"^\s*(import|from) ({stages})\b", path.read_text(), re.M), path.name
    imports = re.findall(
        r"^(?:import|from) (\w+)", (PROJECT / "code" / "config.py").read_text(), re.M
    )
    assert imports == ["dataclasses"]


def test_tensorflow_is_imported_where_it_has_to_be_only():
    importers = {
        path.name
        for path in (PROJECT / "code").rglob("*.py")
        if re.search(r"^\s*(import|from) (tensorflow|kapre)\b", path.read_text(), re.M)
    }
    assert importers == {"time_frequency.py", "layers.py", "recompute.py", "gpus.py"}
