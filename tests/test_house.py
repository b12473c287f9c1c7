"""The floors, sizes and manners of DESIGN hold; everything here is read by AST, nothing runs."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "video_llama"
FLOORS = {
    "common": 0,
    "processors": 1,
    "conversation": 1,
    "models": 1,
    "datasets": 2,
    "toy": 2,
    "tasks": 3,
    "runners": 4,
    "foundations": 5,
    "apps": 5,
}
NEVER = {
    "models": {"datasets", "conversation", "processors"},
    "conversation": {"models"},
    "processors": {"models", "conversation"},
    "datasets": {"models"},
    "toy": {"models"},
    "tasks": {"models"},
}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 8
LONGER = {
    "datasets/feature_cache.py": (350, "writer and reader of one file layout belong together"),
    "models/encoders/imagebind.py": (320, "two trunks of one published file and its key table"),
    "toy/ceilings.py": (340, "every closed form beside the others it must agree with"),
    "toy/questions.py": (390, "one table of questions"),
    "toy/scenes.py": (370, "one table of scenes"),
    "toy/world.py": (335, "the writers of all file layouts share their naming"),
}
"""Files that may be longer: how long, and why splitting them would not help a reader."""

WORKPLACE = {
    r"(?<![\w.])/(work|tmp)/": "a path of one machine",
    r"\bshared/": "a folder that a clone does not have",
    r"\bagents?\b": "who wrote it",
    r"\b(this|another|earlier|previous|next|other) sessions?\b": "when it was written",
    r"(?i)\b(issue|ticket|pull request) ?#?\d+": "a number that means nothing here",
    r"(?:^|\s)#\d{1,4}\b(?!:)": "a number that means nothing here",
    r"(?i)\bthe brief\b": "what was asked for",
}
"""The project speaks of itself alone: patterns that must not occur, and what they would tell."""

TEXTS = (".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".cff", ".cfg", ".j2", ".svg", ".sh", "")
HEAVY = ("deepspeed", "peft", "gradio", "decord", "torchcodec", "tensorboard", "matplotlib")
FOLDERS = ("video_llama", "tests", "docs", "train_configs", "eval_configs", ".ci", ".github")
FILES = sorted(PACKAGE.rglob("*.py"))


every_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)), scope="module"
)
"""All that is asked of one file is asked before the next, for which its tree is read once."""


@functools.lru_cache(maxsize=1)
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def floor_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_floors(tree: ast.Module) -> set[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    parts = [name.split(".") for name in names if name.startswith("video_llama.")]
    return {part[1] for part in parts if part[1] in FLOORS}


@every_file
def test_a_file_imports_only_its_own_floor_and_those_below(path):
    floor = floor_of(path)
    if floor not in FLOORS:
        return
    for other in imported_floors(tree_of(path)) - {floor}:
        assert FLOORS[other] <= FLOORS[floor], f"{floor} must not import {other}"
        assert other not in NEVER.get(floor, set()), f"{floor} must not import {other}"


@every_file
def test_files_and_functions_stay_short(path):
    limit, _ = LONGER.get(str(path.relative_to(PACKAGE)), (MAX_FILE_LINES, ""))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1 - docstring_lines(node)
            assert length <= MAX_FUNCTION_LINES, f"{node.name}: {length} lines"


def test_files_that_may_be_longer_still_are():
    short = [
        name
        for name in LONGER
        if len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    ]
    assert not short, "take them out of LONGER"


@every_file
def test_functions_take_few_parameters_and_name_them(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            args = node.args
            count = len(args.posonlyargs) + len(args.args) + len(args.kwonlyargs)
            assert count <= MAX_PARAMETERS + 1, f"{node.name}: {count} parameters"


@every_file
def test_no_error_is_swallowed(path):
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        assert node.type is not None, f"line {node.lineno}: bare except"
        broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
        raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        assert not broad or raises, f"line {node.lineno}: catches {ast.unparse(node.type)}"
        empty = all(isinstance(inner, ast.Pass) for inner in node.body)
        assert not empty, f"line {node.lineno}: silent except"


@every_file
def test_only_apps_print(path):
    if floor_of(path) == "apps":
        return
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    prints = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not prints


@every_file
def test_heavy_packages_are_imported_where_they_are_used(path):
    for node in tree_of(path).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        heavy = [name for name in names if name.split(".")[0] in HEAVY]
        assert not heavy, f"line {node.lineno}: {heavy} at the top of the module"


@every_file
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(tree_of(path))


@pytest.mark.parametrize("folder", [".", *FOLDERS])
def test_the_project_speaks_of_itself_alone(folder):
    files = (ROOT / folder).glob("*" if folder == "." else "**/*")
    told = [
        f"{path.relative_to(ROOT)}:{number}: {found.group().strip()} ({what})"
        for path in files
        if path.is_file() and path.suffix in TEXTS and path != Path(__file__)
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1)
        for pattern, what in WORKPLACE.items()
        if (found := re.search(pattern, line))
    ]
    assert not told, "\n".join(told)


def test_the_tree_in_the_readme_is_the_real_one():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- tree -->\n```text\n(.*?)```", text, re.DOTALL)
    assert block, "README.md has no tree"
    listed = set(re.findall(r"^\s*([\w/]+\.py)\b", block.group(1), re.MULTILINE))
    real = {str(p.relative_to(PACKAGE)) for p in FILES if p.name != "__init__.py"}
    assert listed == real, (
        f"not in the README: {sorted(real - listed)}; gone: {sorted(listed - real)}"
    )


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
