"""The house keeps its own rules: names, imports, budgets, errors, and documents that tell the truth."""

import ast
import difflib
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import tumble

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "tumble"
MODULES = sorted(PACKAGE.rglob("*.py"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

NOUNS = {
    *("Batch", "Properties", "Model", "Potential", "Gradient", "Direct", "Sum", "Symmetrized", "Projected", "Foreign"),
    "Calculator",
    *("Rotations", "Orbit", "Settings", "Result", "TrainSettings", "TrainResult", "AuditSettings", "AuditResult"),
    *("RelaxSettings", "RelaxResult", "ElasticSettings", "ElasticResult", "PhononsSettings", "PhononsResult"),
    *("ConductivitySettings", "ConductivityResult", "ScreenSettings", "ScreenResult"),
    *("MDSettings", "MDResult", "ObserveSettings", "ObserveResult"),
}
VERBS = {"load", "save", "predict", "symmetrize", "train", "audit", "report", "load_result"}
VERBS |= {"relax", "elastic", "phonons", "conductivity", "screen", "md", "observe", "export", "serve"}
BANNED = {"utils", "util", "helpers", "common", "tools", "misc", "core", "base", "manager", "handler", "wrapper"}

LONGEST_FILE = 400
LONGEST_FUNCTION = 80
USUAL_FUNCTION = 35
MOST_ARGUMENTS = 7


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(*command: str, cwd: Path | None = None, timeout: float = 170) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "120"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def functions() -> list[tuple[str, ast.FunctionDef, list[str]]]:
    """Every function: where it is, its node, and its code lines without docstring, comments and blank lines."""
    found = []
    for path in MODULES:
        lines = path.read_text().splitlines()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                skipped = range(first.lineno, (first.end_lineno or 0) + 1) if is_docstring else range(0)
                numbers = (n for n in range(node.lineno, (node.end_lineno or 0) + 1) if n not in skipped)
                code = [s for n in numbers if (s := lines[n - 1].strip()) and not s.startswith("#")]
                found.append((f"{shown(path)}:{node.lineno} {node.name}", node, code))
    return found


# ---------------------------------------------------------------------------------------------------------- front door


def test_the_front_door_has_exactly_the_announced_names():
    assert set(tumble.__all__) == NOUNS | VERBS | {"__version__"}
    assert len(tumble.__all__) == len(set(tumble.__all__))
    assert dir(tumble) == sorted(tumble.__all__)


@pytest.mark.parametrize("name", sorted(NOUNS | VERBS))
def test_every_public_name_is_there_and_documented(name):
    assert getattr(tumble, name).__doc__


def test_an_unknown_name_is_refused_with_those_on_offer():
    with pytest.raises(AttributeError, match=r"module 'tumble' has no attribute 'traim'; it offers .*train"):
        tumble.traim  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    done = run(
        sys.executable, "-c", "import tumble, sys; print([m for m in ('torch', 'numpy', 'ase') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_every_module_leaves_the_process_untouched(tmp_path):
    ours = [
        ".".join(("tumble", *p.relative_to(PACKAGE).with_suffix("").parts)) for p in MODULES if p.stem != "__main__"
    ]
    code = f"""
import importlib, importlib.util, os, random, sys, warnings
import torch, numpy
for name in {sorted(foreign_imports())}:
    if importlib.util.find_spec(name.split(".")[0]):
        importlib.import_module(name)
def state():
    return (torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(), torch.random.get_rng_state().sum().item(), str(numpy.random.get_state()),
            random.getstate(), dict(os.environ), os.getcwd(), list(warnings.filters), sorted(os.listdir()))
before = state()
for name in {[name.removesuffix(".__init__") for name in ours]}:
    importlib.import_module(name)
for old, new in zip(before, state()):
    assert old == new, (old, new)
print("untouched")
"""
    done = run(sys.executable, "-W", "ignore", "-c", code, cwd=tmp_path)
    assert done.stdout.strip() == "untouched", done.stderr


def foreign_imports() -> set[str]:
    """Modules that the package imports at import time from elsewhere."""
    names = set()
    for path in MODULES:
        for node in tree(path).body:
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    return {name for name in names if name.split(".")[0] not in {"tumble", *sys.stdlib_module_names}}


# --------------------------------------------------------------------------------------------------- layers and budgets


def test_imports_go_downwards_only():
    pytest.importorskip("importlinter")
    done = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache", cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_every_module_has_a_layer():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layered = {name.strip(" ()") for layer in contracts[0]["layers"] for name in layer.split("|")}
    present = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert present - {"__init__", "__main__"} == layered


def test_the_core_imports_only_its_declared_dependencies():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=\[ ]", line)[0].lower() for line in declared}
    modules = {"pyyaml": "yaml"}
    assert {name.split(".")[0] for name in foreign_imports()} <= {modules.get(name, name) for name in names}


def test_no_file_has_a_name_that_says_nothing():
    assert [shown(path) for path in MODULES if path.stem in BANNED or path.parent.name in BANNED] == []


def test_no_file_is_too_long():
    lengths = {shown(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_functions_are_short():
    lengths = {name: len(code) for name, _, code in functions()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}
    long = {name: length for name, length in lengths.items() if length > USUAL_FUNCTION}
    assert len(long) <= 0.1 * len(lengths), long


def test_functions_take_few_arguments():
    counts = {}
    for name, node, _ in functions():
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        counts[name] = len([one for one in names if one not in ("self", "cls")])
    assert {name: count for name, count in counts.items() if count > MOST_ARGUMENTS} == {}


def test_nothing_is_left_to_do():
    words = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")
    marked = [
        shown(path) for path in (*MODULES, *sorted((ROOT / "tests").rglob("*.py"))) if words.search(path.read_text())
    ]
    assert marked == []


def test_nothing_names_a_foreign_machine():
    places = ["/" + name + "/" for name in ("work", "root", "home", "Users", "farm", "scratch")]
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "download.pytorch" + ".org", "registry.npmjs" + ".org"]
    words = re.compile(r"(?<![\w./~-])(" + "|".join(map(re.escape, places)) + ")|" + "|".join(map(re.escape, hosts)))
    found = [f"{shown(path)}: {hit.group()}" for path in texts() if (hit := words.search(path.read_text()))]
    assert found == []


def texts() -> list[Path]:
    """Every text file that belongs to the repository."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    suffixes = {".py", ".md", ".toml", ".txt", ".yaml", ".cff", ".html", ".json", ""}
    return [path for path in paths if path.is_file() and path.suffix in suffixes]


# --------------------------------------------------------------------------------------------------------------- errors


def raised() -> list[tuple[str, str]]:
    """Every message that the package raises: where, and the longest text between its placeholders."""
    found = []
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                found.append((f"{shown(path)}:{node.lineno}", "\0".join(literal_pieces(node.exc.args[0]))))
    return [(place, message) for place, message in found if sum(map(str.isalpha, message)) >= 8]


def literal_pieces(message: ast.expr) -> list[str]:
    """The texts of a string, an f-string, or a sum of them, as far as they are written out."""
    if isinstance(message, ast.Constant) and isinstance(message.value, str):
        return [message.value]
    if isinstance(message, ast.JoinedStr):
        return [v.value for v in message.values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
    if isinstance(message, ast.BinOp):
        return literal_pieces(message.left) + literal_pieces(message.right)
    return []


@cache
def expected() -> list[str]:
    """The texts between the metacharacters of every `match=` in the tests, and of the parameters it may come from."""
    chunks: set[str] = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(tree(path)):
            is_match = isinstance(node, ast.keyword) and node.arg == "match"
            is_table = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "parametrize"
            if is_match or is_table:
                for leaf in ast.walk(node):
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
                        chunks |= set(re.split(r"[.*+?()\[\]{}|^$\d]+", leaf.value.replace("\\", "")))
    return sorted(chunk for chunk in chunks if len(chunk.strip()) >= 8)


def is_expected(message: str) -> bool:
    for chunk in expected():
        matcher = difflib.SequenceMatcher(None, message, chunk, autojunk=False)
        size = matcher.find_longest_match().size
        if size >= 14 or size >= len(chunk) >= 8:
            return True
    return False


def test_every_raise_has_a_test():
    missing = [f"{place} {message[:60]!r}" for place, message in raised() if not is_expected(message)]
    assert missing == [], "\n".join(missing)


def test_only_announced_kinds_of_errors_are_raised():
    allowed = {"ValueError", "RuntimeError", "ImportError", "FileNotFoundError", "AttributeError", "AssertionError"}
    # What Python, ASE and abstract classes ask for by name.
    allowed |= {"NotImplementedError", "KeyboardInterrupt", "PropertyNotImplementedError"}
    kinds = {}
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                kinds[f"{shown(path)}:{node.lineno}"] = node.exc.func.id
    assert {place: kind for place, kind in kinds.items() if kind[0].isupper() and kind not in allowed} == {}


# ------------------------------------------------------------------------------------------------------------ documents


def test_the_file_map_of_the_readme_matches_the_tree():
    listed = set(re.findall(r"^[├└]── (\w[\w.]*)/?\s", (ROOT / "README.md").read_text(), re.MULTILINE))
    present = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"} - {"py.typed", "__main__.py"}
    assert listed == {name.removesuffix("/") for name in present}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def desk(tmp_path_factory) -> Path:
    """A folder with the files that the documents speak of."""
    folder = tmp_path_factory.mktemp("desk")
    done = run(sys.executable, str(ROOT / "tests" / "desk.py"), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_what_a_page_documents_automatically_is_there(page):
    for name in re.findall(r"^\.\. auto\w+:: (\S+)", page.read_text(), flags=re.M):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=shown)
def test_the_python_of_a_page_runs(page, desk):
    done = run(sys.executable, "-W", "error", "-c", "\n".join(blocks(page, "python")), cwd=desk)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=shown)
def test_the_commands_of_a_page_run(page, desk):
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    makes = {line.split()[1] for line in lines if line.startswith("make ")}
    assert makes <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("tumble ")]
    words = [[*command, *EXTRA.get(command[0], [])] for command in commands]
    # In one process, for what takes time is to import torch.
    code = f"from tumble.cli import main\nfor words in {words}:\n    assert main(words) == 0, words"
    done = run(sys.executable, "-W", "error", "-c", code, cwd=desk)
    assert done.returncode == 0, done.stderr


EXTRA = {verb: ["--overwrite"] for verb in ("predict", "symmetrize", "train")}
EXTRA["audit"] = ["--overwrite", "--budget", "1e5"]


@pytest.mark.parametrize("example", EXAMPLES, ids=shown)
def test_an_example_is_short_and_runs(example, tmp_path):
    assert len(example.read_text().splitlines()) < 40
    done = run(sys.executable, "-W", "error", str(example), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
