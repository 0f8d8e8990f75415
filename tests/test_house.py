"""Rules that hold for the whole repository."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("core", "shards", "extract", "train", "search", "evaluate", "launch")
MOST_LINES = 400
# Standard tools whose module bears the name of an entry script; such scripts are run as files, where their folder is
# taken off sys.path, and nothing here imports the tool.
ALLOWED_NAMES = {"build"}


def repository_files() -> list[Path]:
    """Files that belong to the repository: tracked ones, and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    return sorted({ROOT / name.decode() for name in listed if name and (ROOT / name.decode()).is_file()})


FILES = repository_files()
SOURCES = [path for path in FILES if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in STAGES]
TEXTS = [
    path for path in FILES if path.suffix not in {".png", ".jpg", ".gif", ".mp4", ".webm", ".pt", ".parquet", ".tar"}
]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_stages_are_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(STAGES)


def test_imports_point_down_and_engines_stay_in_their_packages() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(program), "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def distributed_imports(text: str) -> set[str]:
    """Names under torch.distributed that a module's text imports or uses."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
    return {name for name in found if (name + ".").startswith("torch.distributed.")}


def test_only_core_knows_torch_distributed() -> None:
    # import-linter sees foreign packages by their first name only.
    assert distributed_imports("import torch.distributed as d") and distributed_imports("from torch import distributed")
    assert not distributed_imports("import torch.nn")
    offenders = [
        named(path)
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] != "core" and distributed_imports(path.read_text(encoding="utf-8"))
    ]
    assert offenders == []


@functools.cache
def third_party_names() -> set[str]:
    """Top-level module names of everything installed but this project."""
    names = importlib.metadata.packages_distributions()
    return {name for name, owners in names.items() if set(owners) != {"reelkin"}}


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_module_bears_the_name_of_another_one(path: Path) -> None:
    # A file that is run as a script puts its folder first on sys.path: its neighbours would hide the real modules.
    name = path.stem
    assert name not in sys.stdlib_module_names
    assert name in ALLOWED_NAMES or name not in third_party_names()


FORBIDDEN = {
    r"\bpickle\.loads?\(": "core/pickles.py has the only unpickler",
    r"\ballow_pickle\s*=\s*True": "numpy files without pickles only",
    r"\bweights_only\s*=\s*False": "torch.load with weights_only=True",
    r"\btorch\.load\((?![^\n]*weights_only=True)": "torch.load with weights_only=True on the same line",
    r"\bshell\s*=\s*True": "commands are lists of words",
    r"(?<![\w.])eval\(": "no eval",
    r"(?<![\w.])exec\(": "no exec",
    r"\byaml\.(unsafe_)?load\(": "yaml.safe_load",
    r"\bos\.system\(": "subprocess with a list of words",
    r"\btempfile\.mktemp\(": "a name that another process can take",
}


@pytest.mark.parametrize("pattern", FORBIDDEN, ids=lambda pattern: pattern.strip(r"\b"))
def test_nothing_unsafe_is_called(pattern: str) -> None:
    offenders = [
        f"{named(path)}:{number}: {FORBIDDEN[pattern]}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert offenders == []


def test_the_patterns_catch_what_they_are_for() -> None:
    bad = [
        "x = pickle.load(file)",
        "np.load(p, allow_pickle=True)",
        "torch.load(p, weights_only=False)",
        "torch.load(p)",
        "run(c, shell=True)",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
        "os.system(c)",
        "tempfile.mktemp()",
    ]
    for line, pattern in zip(bad, FORBIDDEN, strict=True):
        assert re.search(pattern, line), (line, pattern)
    assert not any(re.search(pattern, "model.eval(); torch.load(p, weights_only=True)") for pattern in FORBIDDEN)


def test_files_stay_short() -> None:
    long = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES if path.suffix == ".py"}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


def test_nothing_names_a_machine_or_a_package_host() -> None:
    # Put together here, so that this file does not name them itself.
    needles = [
        "/wo" + "rk/",
        "/ro" + "ot/",
        "/opt/py" + "pi",
        "py" + "pi.org",
        "python" + "hosted",
        "pytorch.org/" + "whl",
    ]
    offenders = [
        f"{named(path)}: {needle}"
        for path in TEXTS
        for needle in needles
        if needle in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert offenders == []


def test_every_package_and_public_module_says_what_it_is() -> None:
    assert [named(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []
