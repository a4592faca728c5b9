"""The README's commands, options, modules and files are those of the project."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import config
import kernel
import search
import tag
from runs import command_line

SCRIPTS = {"tag": tag._parser(), "kernel": kernel._parser(), "search": search._parser()}
PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text()


def test_commands_are_understood():
    commands = re.findall(
        r"^sh run\.sh.*$", "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S)), re.M
    )
    assert len(commands) >= 7
    parser = command_line.parser("")
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
    for option in options_of(command_line.parser("")):
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
    rooms = (PROJECT / "code" / "README.md").read_text()
    for path in (PROJECT / "code").rglob("*.py"):
        named = path.stem if path.parent.name == "code" else f"`{path.stem}`"
        assert named in rooms, path
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
