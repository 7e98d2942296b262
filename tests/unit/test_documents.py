"""What the documents say is true: examples are read by the code that they explain, and the names
of commands, audit actions, metrics and addresses are those that the code has."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from starlette.routing import BaseRoute, Match
from typer.core import TyperGroup, TyperOption

from hub.cli.app import app
from hub.config import load_settings
from hub.domain.delivery import DocumentKind
from hub.formats.finding_changes import read_changes
from hub.formats.manifest.model_manifest import read_manifest
from hub.ports import Jobs
from hub.registry import discover
from hub.store.database import Database, open_database, sqlite_url
from hub.store.results import RequestState
from hub.web.api.assessments import Assessment
from hub.web.app import create_app
from hub.web.context import WebContext
from hub.web.metrics import HubCollector
from tests.unit import documents
from tests.unit.seeded import FixedClock, seeded_database

REPOSITORY = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```yaml\n(?P<text># (?P<kind>\S+)\n.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = re.compile(r"(?:(GET|POST) )?(/(?:health|metrics|api)\b\S*)")
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
COMMENTED = re.compile(r"^# +(caidx .*)$", re.MULTILINE)
KINDS = "kind | standard | for whom |"
DESTINATIONS = "destination kind | can take | gets without `documents` |"
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
CONFIGURATIONS = sorted((REPOSITORY / "deploy").glob("*.yaml"))
GUIDE = REPOSITORY / "docs" / "operator-guide.md"
RESULTS_GUIDE = REPOSITORY / "docs" / "results-guide.md"


# --- examples -----------------------------------------------------------------------------


def examples(kind: str) -> list[tuple[str, str]]:
    return [
        (f"{path.name}, example {number}", found["text"])
        for path in DOCUMENTS
        for number, found in enumerate(FENCE.finditer(path.read_text(encoding="utf-8")), start=1)
        if found["kind"] == kind
    ]


@pytest.mark.parametrize(("where", "text"), examples("model.yaml"))
def test_a_model_card_in_a_document_is_valid(where: str, text: str) -> None:
    assert read_manifest(text, where).id


def shown_models() -> set[str]:
    """Ids of the models whose cards the documents show: a reader may have registered them."""
    return {read_manifest(text, where).id for where, text in examples("model.yaml")}


@pytest.mark.parametrize(("where", "text"), examples("caidx.yaml"))
def test_a_configuration_in_a_document_is_valid(
    where: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in re.findall(r"\benv:(\w+)", text):
        secret = f"whsec_{'A' * 32}" if name.endswith("_SECRET") else ""
        monkeypatch.setenv(name, secret or "postgresql://caidx@db.example/caidx")
    settings = load_settings(text, where, discover(), registered=shown_models())
    assert settings.file == where


def test_the_documents_hold_examples_of_both() -> None:
    assert examples("model.yaml")
    assert examples("caidx.yaml")


def test_the_assessments_in_the_guide_are_taken() -> None:
    changes, assessment = documents.blocks(documents.text_of(RESULTS_GUIDE.name), "json")
    assert len(read_changes(changes.encode())) == 4
    assert Assessment.model_validate_json(assessment).assessment == "reject"


def test_every_document_that_a_destination_can_take_is_in_the_guide() -> None:
    rows = documents.table(documents.text_of(RESULTS_GUIDE.name), KINDS)
    found = {kind for row in rows for kind in documents.spans(row[0])}
    assert found == set(DocumentKind) - {DocumentKind.RECORD}


def test_what_each_kind_of_destination_gets_by_default_is_in_the_guide() -> None:
    rows = documents.table(documents.text_of(RESULTS_GUIDE.name), DESTINATIONS)
    told = {
        kind: tuple(documents.spans(row[2])) for row in rows for kind in documents.spans(row[0])
    }
    assert told == {
        kind: tuple(connector.sends or connector.accepts)
        for kind, connector in discover().connectors.items()
        if connector.destination_config is not None
    }


# --- commands -----------------------------------------------------------------------------


def spans(path: Path) -> list[str]:
    """What stands between backticks, outside of blocks."""
    return SPAN.findall(BLOCK.sub("", path.read_text(encoding="utf-8")))


def command_lines(path: Path) -> Iterator[str]:
    """Every call of ``caidx`` that a document shows."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        yield from COMMENTED.findall(text)
        return
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines()]
    for line in [*lines, *SPAN.findall(BLOCK.sub("", text))]:
        command = line.strip().partition(" #")[0].strip()
        if command.partition(" ")[0].rpartition("/")[2] == "caidx" and " " in command:
            yield command


def wrong_in(line: str) -> str:
    """What the command line does not know of ``line``; empty when it knows everything."""
    command = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            options = {name: p for p in command.params for name in (*p.opts, *p.secondary_opts)}
            option = options.get(word.partition("=")[0])
            if option is None:
                return f"{command.name} has no option {word}"
            if isinstance(option, TyperOption) and not option.is_flag and "=" not in word:
                words = words[1:]
        elif isinstance(command, TyperGroup):
            inner = command.get_command(typer.Context(command), word)
            if inner is None:
                return f"{command.name} has no command {word}"
            command = inner
    return ""


def leaves(command: object, *names: str) -> Iterator[str]:
    if isinstance(command, TyperGroup):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from leaves(command.get_command(context, name), *names, name)
    else:
        yield " ".join(names)


@pytest.mark.parametrize("path", [*DOCUMENTS, *CONFIGURATIONS], ids=lambda path: path.name)
def test_every_command_in_a_document_exists(path: Path) -> None:
    assert {line: wrong for line in command_lines(path) if (wrong := wrong_in(line))} == {}


def test_every_command_is_in_the_operator_guide() -> None:
    shown = [" ".join(shlex.split(line)[1:]) for line in command_lines(GUIDE)]
    commands = set(leaves(typer.main.get_command(app)))
    assert [
        c for c in sorted(commands) if not any(f"{s} ".startswith(f"{c} ") for s in shown)
    ] == []


def test_a_command_or_option_that_is_not_there_is_found() -> None:
    assert wrong_in("caidx study lost") == "study has no command lost"
    assert wrong_in("caidx -c file.yaml delivery retry --every") == "retry has no option --every"
    assert wrong_in("/opt/caidx/bin/caidx delivery retry --destination pacs") == ""


# --- audit actions -------------------------------------------------------------------------


class RecordedActions:
    """The actions that the code records, read from its calls.

    A function that takes an ``action`` records it, or hands it to another one that does; whoever
    calls it may have it from its own callers.
    """

    def __init__(self, folder: Path) -> None:
        self.actions: set[str] = set()
        self.unread: list[str] = []
        trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(folder.rglob("*.py"))}
        self._module_of = {node: path for path, tree in trees.items() for node in ast.walk(tree)}
        self._functions = [n for n in self._module_of if isinstance(n, ast.FunctionDef)]
        self._calls = [n for n in self._module_of if isinstance(n, ast.Call)]
        self._constants = dict(self._text_constants())
        self._tables = dict(self._text_tables())
        recorders = {
            (f.name, place, self._module_of[f] if f.name.startswith("_") else None)
            for f in self._functions
            for place in self._place(f, "action")
        }
        for name, place, module in recorders:
            for argument in self._arguments(name, place, "action", module):
                self._read(argument)

    def _text_constants(self) -> Iterator[tuple[str, str]]:
        for node in self._module_of:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                    yield name, text
                case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                    for name, value in zip(names, values, strict=False):
                        if isinstance(name, ast.Name) and isinstance(value, ast.Constant):
                            yield name.id, str(value.value)

    def _text_tables(self) -> Iterator[tuple[tuple[Path, str], list[str]]]:
        """The texts in every dictionary with a name."""
        for node, path in self._module_of.items():
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(values=values)):
                    texts = [v.value for v in values if isinstance(v, ast.Constant)]
                    yield (path, name), [text for text in texts if isinstance(text, str)]

    @staticmethod
    def _place(function: ast.FunctionDef, parameter: str) -> Iterator[int]:
        names = [argument.arg for argument in function.args.args]
        if parameter in names:
            yield names.index(parameter) - (names[0] == "self")

    def _arguments(
        self, function: str, place: int, parameter: str, module: Path | None = None
    ) -> Iterator[ast.expr]:
        """What calls give to a parameter; a private function is called in its own module only."""
        for call in self._calls:
            called = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if called == function and module in {None, self._module_of[call]}:
                yield from call.args[place : place + 1]
                yield from (k.value for k in call.keywords if k.arg == parameter)

    def _read(self, argument: ast.expr) -> None:
        match argument:
            case ast.Constant(value=str(action)):
                self.actions.add(action)
            case ast.Name(id="action") | ast.Attribute(attr="action"):
                pass  # handed on
            case ast.Name(id=name) if name in self._constants:
                self.actions.add(self._constants[name])
            case ast.Name(id=name) if self._is_given(name, argument):
                for given in self._given_to(name, around=argument):
                    self._read(given)
            case ast.Subscript(value=ast.Name(id=name)) if self._table(name, argument):
                self.actions.update(self._table(name, argument))
            case ast.JoinedStr(
                values=[
                    ast.Constant(value=str(prefix)),
                    ast.FormattedValue(value=ast.Attribute(ast.Name(id=parameter), "value")),
                ]
            ):
                states = self._states_given_to(parameter, around=argument)
                self.actions |= {f"{prefix}{state.value}" for state in states}
            case _:
                self.unread.append(ast.unparse(argument))

    def _table(self, name: str, argument: ast.expr) -> list[str]:
        return self._tables.get((self._module_of[argument], name), [])

    def _is_given(self, parameter: str, around: ast.expr) -> bool:
        return any(self._place(self._function_of(around), parameter))

    def _given_to(self, parameter: str, *, around: ast.expr) -> Iterator[ast.expr]:
        """What the function around an expression is called with, where it says so at all."""
        function = self._function_of(around)
        for place in self._place(function, parameter):
            yield from self._arguments(function.name, place, parameter)

    def _function_of(self, expression: ast.expr) -> ast.FunctionDef:
        return next(f for f in self._functions if expression in ast.walk(f))

    def _states_given_to(self, parameter: str, *, around: ast.expr) -> Iterator[RequestState]:
        """The states that the code gives to a parameter of the function around an expression."""
        function = next(f for f in self._functions if around in ast.walk(f))
        for place in self._place(function, parameter):
            for argument in self._arguments(function.name, place, parameter):
                match argument:
                    case ast.Attribute(ast.Name(id="RequestState"), name):
                        yield RequestState[name]
                    case ast.Name(id=name):  # handed on
                        yield from self._states_given_to(name, around=argument)


def recorded_actions() -> set[str]:
    found = RecordedActions(REPOSITORY / "hub")
    assert found.unread == []
    return found.actions


def documented_actions() -> set[str]:
    table = GUIDE.read_text(encoding="utf-8").partition("| action | says |\n")[2]
    rows = table.partition("\n\n")[0].splitlines()[1:]
    return {action for row in rows for action in SPAN.findall(row.split("|")[1])}


def test_the_actions_of_the_code_are_found() -> None:
    assert {"study.received", "delivery.resent", "inference.failed"} <= recorded_actions()


def test_every_documented_audit_action_is_recorded() -> None:
    assert documented_actions() - recorded_actions() == set()


def test_every_recorded_audit_action_is_documented() -> None:
    assert recorded_actions() - documented_actions() == set()


# --- metrics and addresses ------------------------------------------------------------------


def web_context(database: Database) -> WebContext:
    def no_jobs() -> Jobs:
        raise AssertionError("nothing is written here")

    return WebContext(database, (), FixedClock(), "1.2.3", heartbeat_seconds=2.0, jobs=no_jobs)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebContext]:
    database = seeded_database(tmp_path_factory.mktemp("documents"))
    yield web_context(database)
    database.close()


def documented_metrics(path: Path) -> set[str]:
    return {name for span in spans(path) for name in re.findall(r"^caidx_[a-z_]+", span)}


def test_every_documented_metric_exists(context: WebContext) -> None:
    metrics = {metric.name for metric in HubCollector(context).collect()}
    unknown = {path.name: documented_metrics(path) - metrics for path in DOCUMENTS}
    assert {name: names for name, names in unknown.items() if names} == {}


def test_every_metric_is_in_the_operator_guide_with_its_labels(context: WebContext) -> None:
    rows = re.findall(r"^\| `(caidx_[a-z_]+)` \|([^|]*)\|", GUIDE.read_text("utf-8"), re.MULTILINE)
    documented = {name: set(SPAN.findall(labels)) for name, labels in rows}
    found = {
        metric.name: {label for sample in metric.samples for label in sample.labels}
        for metric in HubCollector(context).collect()
    }
    assert documented == found


@pytest.mark.parametrize("path", [GUIDE, RESULTS_GUIDE], ids=lambda path: path.name)
def test_every_address_in_a_guide_exists(path: Path, tmp_path: Path) -> None:
    database = open_database(sqlite_url(tmp_path / "none.sqlite"))
    web = create_app(web_context(database))
    shown = [found.groups() for span in spans(path) if (found := ADDRESS.match(span))]
    assert shown
    wrong = [
        address
        for method, address in shown
        if not any(_leads(route, method or "GET", address) for route in web.routes)
    ]
    assert wrong == []
    database.close()


def _leads(route: BaseRoute, method: str, path: str) -> bool:
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    return route.matches(scope)[0] is Match.FULL


# --- links -----------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """Of the headings of a document, as GitHub makes them."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(path: Path) -> None:
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (path.parent / name) if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []
