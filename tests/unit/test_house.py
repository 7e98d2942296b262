"""The house rules that no linter knows: sizes, forbidden habits, what documents may say."""

from __future__ import annotations

import ast
import importlib.metadata
import io
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("hub", "connectors", "model_adapters")

FILE_LINES = 500
FUNCTION_LINES = 60
FUNCTION_LINES_P90 = 30

MIGRATIONS = "hub/store/migrations/versions/"  # lists of tables, written once
MAY_CATCH_EVERYTHING = {
    "hub/supervisor/faults.py",
    "hub/supervisor/rendering_process.py",
    "hub/supervisor/sources.py",
    "model_adapters/tensors/worker.py",
}
HOMELESS_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
DOCUMENTS = {".md", ".rst", ".txt", ".yaml", ".yml", ".toml", ".sh", ""}

NOTE_TO_SELF = re.compile(r"\b(TODO|FIXME|XXX|HACK|WIP|TBD)\b")
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(work|root|home|Users)/[\w.]")
REGISTRY_HOST = re.compile(
    r"pypi\.org|pythonhosted\.org|registry\.npmjs\.org|registry\.yarnpkg\.com"
    r"|deb\.debian\.org|proxy\.golang\.org|(?:index|extra-index|find-links)[-_]?url\s*[=:]"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One Python file, parsed once for every rule."""

    path: str
    text: str
    tree: ast.Module

    @classmethod
    def read(cls, path: str) -> Module:
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        return cls(path, text, ast.parse(text, filename=path))

    @property
    def functions(self) -> Iterator[Function]:
        return (n for n in ast.walk(self.tree) if isinstance(n, Function))


def tracked(*paths: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    return [p for p in listed.stdout.split("\0") if p and (REPOSITORY / p).is_file()]


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    found = [Module.read(path) for path in tracked(*PACKAGES) if path.endswith(".py")]
    assert found, "no modules: the rules would hold for nothing"
    return found


def length(function: Function) -> int:
    first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
    return (function.end_lineno or first) - first + 1


# --- the rules: each gives the lines that break it -----------------------------------------


def long_file(module: Module) -> Iterator[int]:
    lines = len(module.text.splitlines())
    if lines > FILE_LINES:
        yield lines


def long_function(module: Module) -> Iterator[int]:
    if module.path.startswith(MIGRATIONS):
        return iter(())
    return (f.lineno for f in module.functions if length(f) > FUNCTION_LINES)


def global_statement(module: Module) -> Iterator[int]:
    return (n.lineno for n in ast.walk(module.tree) if isinstance(n, ast.Global))


def broad_except(module: Module) -> Iterator[int]:
    if module.path in MAY_CATCH_EVERYTHING:
        return
    for node in ast.walk(module.tree):
        caught: list[ast.expr | None] = []
        if isinstance(node, ast.ExceptHandler):
            caught = list(node.type.elts) if isinstance(node.type, ast.Tuple) else [node.type]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            caught = list(node.args)
        if any(c is None or ast.unparse(c) in {"Exception", "BaseException"} for c in caught):
            yield node.lineno


def print_call(module: Module) -> Iterator[int]:
    calls = (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))
    return (call.lineno for call in calls if ast.unparse(call.func) == "print")


def homeless_name(module: Module) -> Iterator[int]:
    if HOMELESS_NAMES & set(Path(module.path).with_suffix("").parts):
        yield 1


def note_to_self(module: Module) -> Iterator[int]:
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type in {tokenize.COMMENT, tokenize.STRING} and NOTE_TO_SELF.search(token.string):
            yield token.start[0]


def unfinished(module: Module) -> Iterator[int]:
    raised = (node for node in ast.walk(module.tree) if isinstance(node, ast.Raise) and node.exc)
    return (
        node.lineno
        for node in raised
        if node.exc and ast.unparse(node.exc).startswith("NotImplementedError")
    )


Rule = Callable[[Module], Iterator[int]]
RULES: tuple[Rule, ...] = (
    long_file,
    long_function,
    global_statement,
    broad_except,
    print_call,
    homeless_name,
    note_to_self,
    unfinished,
)

BREAKS = {
    long_file: "\n" * (FILE_LINES + 1),
    long_function: "def f():\n" + "    f()\n" * FUNCTION_LINES,
    global_statement: "def f():\n    global x\n    x = 1\n",
    broad_except: "try:\n    f()\nexcept (ValueError, Exception):\n    f()\n",
    print_call: "print('hello')\n",
    homeless_name: "",
    note_to_self: "# TO" + "DO: later\n",
    unfinished: "def f():\n    raise NotImplementedError\n",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module_breaks_the_rule(rule: Rule, modules: list[Module]) -> None:
    assert [f"{m.path}:{line}" for m in modules for line in rule(m)] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_finds_what_breaks_it(rule: Rule) -> None:
    text = BREAKS[rule]
    assert list(rule(Module("hub/utils.py", text, ast.parse(text))))


def test_nine_functions_in_ten_fit_on_a_screen(modules: list[Module]) -> None:
    lengths = sorted(length(f) for module in modules for f in module.functions)
    assert lengths[int(len(lengths) * 0.9)] <= FUNCTION_LINES_P90


def test_every_entry_point_imports() -> None:
    distribution = importlib.metadata.distribution("caidx-hub")
    points = list(distribution.entry_points)
    assert {"console_scripts", "caidx.connectors", "caidx.model_adapters"} <= {
        point.group for point in points
    }
    for point in points:
        assert point.load() is not None, point


def offending(pattern: re.Pattern[str], paths: list[str]) -> list[str]:
    found = []
    for path in paths:
        text = (REPOSITORY / path).read_text(encoding="utf-8", errors="replace")
        found += [
            f"{path}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(text.splitlines(), start=1)
            if pattern.search(line)
        ]
    return found


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return [
        path
        for path in tracked()
        if Path(path).suffix in DOCUMENTS and Path(path).name != "LICENSE"
    ]


def test_no_file_holds_a_path_of_one_machine(documents: list[str]) -> None:
    sources = [path for path in tracked() if path.endswith(".py") and path != own_path()]
    assert offending(MACHINE_PATH, documents + sources) == []


def test_no_file_names_a_package_registry(documents: list[str]) -> None:
    others = [path for path in tracked() if path.endswith((".py", ".json", ".lock", "Makefile"))]
    files = {*documents, *others} - {own_path()}
    assert offending(REGISTRY_HOST, sorted(files)) == []


def test_no_document_holds_a_note_to_self(documents: list[str]) -> None:
    prose = [path for path in documents if path.endswith(".md")]
    assert offending(NOTE_TO_SELF, prose) == []


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for path in tracked():
        if not path.endswith(".md"):
            continue
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" in target or target.startswith("mailto:"):
                continue
            if not ((REPOSITORY / path).parent / target).exists():
                broken.append(f"{path}: {target}")
    assert broken == []


def own_path() -> str:
    return str(Path(__file__).relative_to(REPOSITORY))
