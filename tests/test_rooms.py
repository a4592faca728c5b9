"""Who may import whom: the table of code/README.md, against every import of the code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

CODE = Path(__file__).resolve().parents[1] / "code"
README = (CODE / "README.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (.*?) \|", README.split("## Who may import whom")[1], re.M)
MAY_IMPORT = {room: re.findall(r"`(\w+)`", rooms) for room, rooms in ROWS}
OURS = {path.stem if path.is_file() else path.name for path in CODE.iterdir()}
WITHOUT_KERAS = {"audio", "features", "logmel", "crops", "metrics", "folds"}


def imports(path: Path) -> set[str]:
    """Modules by their full names, those that functions import too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def rooms(path: Path) -> set[str]:
    """The rooms, and modules beside them, that a module imports."""
    return {name.split(".")[0] for name in imports(path)} & OURS


def test_the_table_names_every_room():
    folders = {path.name for path in CODE.iterdir() if (path / "__init__.py").is_file()}
    assert set(MAY_IMPORT) == folders | {"config", "messages", "own_modules", "storage"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room):
    modules = (
        [CODE / f"{room}.py"] if (CODE / f"{room}.py").is_file() else (CODE / room).glob("*.py")
    )
    for module in modules:
        assert rooms(module) <= {room, *MAY_IMPORT[room]}, module


def test_no_script_is_imported():
    scripts = {path.stem for path in CODE.glob("*.py")} - set(MAY_IMPORT)
    for module in CODE.rglob("*.py"):
        assert not rooms(module) & scripts, module


def test_preprocessing_starts_without_keras():
    look = "import sys, preprocess; print(*{'keras', 'tensorflow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", look], cwd=CODE, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("\n", 0)


def test_what_preprocessing_needs_of_the_solution_starts_without_keras():
    for name in WITHOUT_KERAS:
        found = imports(CODE / "solution" / f"{name}.py")
        assert not {module.split(".")[0] for module in found} & {"keras", "tensorflow", "kapre"}
        ours = {module.split(".")[1] for module in found if module.startswith("solution.")}
        assert ours & {path.stem for path in (CODE / "solution").glob("*.py")} <= WITHOUT_KERAS


def test_tensorflow_is_imported_where_it_has_to_be_only():
    importers = {
        path.relative_to(CODE).as_posix()
        for path in CODE.rglob("*.py")
        if {name.split(".")[0] for name in imports(path)} & {"tensorflow", "kapre"}
    }
    assert importers == {"solution/time_frequency.py", "fast/layers.py", "fast/gpus.py"}


def test_there_is_no_package_called_code():
    """Its name would hide the standard library's module of that name."""
    assert not (CODE / "__init__.py").exists()


def test_few_modules_stand_at_the_top():
    assert len(list(CODE.glob("*.py"))) <= 14
