"""YAML 1.2 text that remembers its lines, and validation that names file, line and field.

Only what a configuration or a manifest needs is accepted: mappings with text (or whole number)
keys, sequences, text, numbers, booleans and null. Dates stay text. Anything else (tags, binary,
sets, merge keys, duplicate keys, several documents) is refused with its line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from hub.errors import ConfigError, ConfigProblem
from hub.formats.validation_messages import plain_message

T = TypeVar("T")
Step = str | int
FieldPath = tuple[Step, ...]
Schema = Mapping[str, Any]

MAXIMUM_NODES = 200_000
"""Aliases can make a small text enormous ("billion laughs"); nothing real comes near this."""
MAXIMUM_DEPTH = 60

_PREFIX = "tag:yaml.org,2002:"
_AS_TEXT = {_PREFIX + "str", _PREFIX + "timestamp"}
_CONSTRUCTED = {_PREFIX + name for name in ("int", "float", "bool", "null")}
_TOP = "(document)"
_IMPOSSIBLE_KIND = "\x00"


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """The plain data of one YAML text, and where each part of it stands."""

    file: str
    data: Any
    """dict, list, str, int, float, bool or None."""
    lines: Mapping[FieldPath, int]

    def line_of(self, path: Sequence[Step]) -> int:
        """1-based line of a field; of its nearest existing parent where it is missing."""
        wanted = tuple(path)
        for length in range(len(wanted), -1, -1):
            if wanted[:length] in self.lines:
                return self.lines[wanted[:length]]
        return 1

    def problem(self, path: Sequence[Step], message: str) -> ConfigProblem:
        """A mistake at a field of this document."""
        return ConfigProblem(self.file, self.line_of(path), dotted(path), message)


def dotted(path: Sequence[Step]) -> str:
    """``("routes", 0, "when")`` as ``routes.0.when``."""
    return ".".join(str(step) for step in path) or _TOP


def read_yaml(text: str, file: str) -> YamlDocument:
    """Read one YAML 1.2 document; an empty text is an empty mapping.

    Raises:
        ConfigError: it is not YAML, a key appears twice, or a value is not plain data.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        _refuse(file, *_syntax_problem(error))
    except YAMLError:
        _refuse(file, 0, (), "not valid YAML: holds characters that YAML does not allow")
    except RecursionError:
        _refuse(file, 0, (), "is nested too deeply")
    lines: dict[FieldPath, int] = {(): 1}
    if root is None:
        return YamlDocument(file, {}, lines)
    data = _Reader(file, yaml, lines).read(root, ())
    return YamlDocument(file, data, lines)


def _syntax_problem(error: MarkedYAMLError) -> tuple[int, FieldPath, str]:
    at, begun = error.problem_mark, error.context_mark
    message = f"not valid YAML: {error.problem or 'cannot be read'}"
    if at is None:
        return 0, (), message
    if begun is not None and begun.line != at.line:
        message += f" ({error.context} that begins on line {begun.line + 1})"
    return int(at.line) + 1, (), message


def _refuse(file: str, line: int, path: FieldPath, message: str) -> NoReturn:
    raise ConfigError((ConfigProblem(file, line, dotted(path), message),))


class _Reader:
    """Turns composed nodes into plain data and notes their lines."""

    def __init__(self, file: str, yaml: YAML, lines: dict[FieldPath, int]) -> None:
        self._file = file
        self._yaml = yaml
        self._lines = lines
        self._nodes = 0

    def read(self, node: Node, path: FieldPath) -> Any:
        self._nodes += 1
        if self._nodes > MAXIMUM_NODES or len(path) > MAXIMUM_DEPTH:
            _refuse(self._file, _line(node), path[:4], "is too large or nested too deeply")
        self._lines.setdefault(path, _line(node))
        if isinstance(node, MappingNode) and node.tag == _PREFIX + "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and node.tag == _PREFIX + "seq":
            return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        _refuse(self._file, _line(node), path, f"the YAML tag {node.tag} is not allowed")

    def _mapping(self, node: MappingNode, path: FieldPath) -> dict[Step, Any]:
        found: dict[Step, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            below = (*path, key)
            if key in found:
                first = self._lines[below]
                message = f"appears twice; the first one is on line {first}"
                _refuse(self._file, _line(key_node), below, message)
            self._lines[below] = _line(key_node)
            found[key] = self.read(value_node, below)
        return found

    def _key(self, node: Node, path: FieldPath) -> Step:
        key = self._scalar(node, path) if isinstance(node, ScalarNode) else None
        if isinstance(key, bool) or not isinstance(key, str | int):
            _refuse(self._file, _line(node), path, "a field name must be text")
        return key

    def _scalar(self, node: ScalarNode, path: FieldPath) -> Any:
        if node.tag in _AS_TEXT:
            return node.value
        if node.tag == _PREFIX + "merge":
            _refuse(self._file, _line(node), path, "merge keys (<<) are not part of YAML 1.2")
        if node.tag not in _CONSTRUCTED:
            _refuse(self._file, _line(node), path, f"the YAML tag {node.tag} is not allowed")
        try:
            return self._yaml.constructor.construct_object(node)
        except (ValueError, YAMLError):
            _refuse(self._file, _line(node), path, "is not a value that can be read")


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


# --- validation --------------------------------------------------------------------------


def validate(adapter: TypeAdapter[T], document: YamlDocument, *, prefix: FieldPath = ()) -> T:
    """The typed value of a document, or of the part of it at ``prefix``.

    Raises:
        ConfigError: every problem as ``file:line: field: message``.
    """
    return validate_data(adapter, value_at(document.data, prefix), document, prefix=prefix)


def validate_data(
    adapter: TypeAdapter[T], data: object, document: YamlDocument, *, prefix: FieldPath
) -> T:
    """As ``validate``, for data made from the part of the document at ``prefix`` (for instance
    with secrets put in or fields taken out); lines come from the document.

    Raises:
        ConfigError: every problem as ``file:line: field: message``.
    """
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise ConfigError(_problems(error, adapter, data, document, prefix)) from None


def value_at(data: Any, path: Sequence[Step]) -> Any:
    """The part of plain data at a path that exists."""
    for step in path:
        data = data[step]
    return data


@dataclass(frozen=True, slots=True)
class _Fault:
    """One pydantic error with its location told apart: path in the data, union members."""

    path: FieldPath
    members: tuple[tuple[FieldPath, str], ...]
    """For each union on the way: where it is, and the name of the member that was tried."""
    kind: str
    message: str
    expected: str


def _problems(
    error: ValidationError,
    adapter: TypeAdapter[Any],
    data: Any,
    document: YamlDocument,
    at: FieldPath,
) -> tuple[ConfigProblem, ...]:
    faults = _with_known_kinds(_faults(error, data), adapter, data)
    found: dict[FieldPath, list[str]] = {}
    for fault in _of_meant_members(faults):
        message = fault.message
        if fault.kind in {"extra_forbidden", "unexpected_keyword_argument"}:
            message = unknown_field_message(
                str(fault.path[-1]), _known_fields(adapter, fault, data)
            )
        found.setdefault(fault.path, [])
        if message not in found[fault.path]:
            found[fault.path].append(message)
    problems = (document.problem((*at, *path), ", or ".join(m)) for path, m in found.items())
    return tuple(sorted(problems, key=lambda problem: problem.line))


def _faults(error: ValidationError, data: Any) -> list[_Fault]:
    faults = []
    for item in error.errors(include_url=False):
        path, members = _locate(item["loc"], data, missing="missing" in item["type"])
        expected = str(item.get("ctx", {}).get("expected", ""))
        message = plain_message(item)
        faults.append(_Fault(path, members, item["type"], message, expected))
    return faults


def _locate(
    location: Sequence[Step], data: Any, *, missing: bool
) -> tuple[FieldPath, tuple[tuple[FieldPath, str], ...]]:
    """Tell the steps of a pydantic location that lead through the data from the names of union
    members that pydantic puts between them."""
    path: list[Step] = []
    members: list[tuple[FieldPath, str]] = []
    for index, step in enumerate(location):
        last = index == len(location) - 1
        in_list = isinstance(data, list) and isinstance(step, int) and step < len(data)
        in_dict = isinstance(data, dict) and step in data
        if in_list or in_dict:
            path.append(step)
            data = data[step]
        elif missing and last:
            path.append(step)
        else:
            members.append((tuple(path), str(step)))
    return tuple(path), tuple(members)


def _with_known_kinds(faults: list[_Fault], adapter: TypeAdapter[Any], data: Any) -> list[_Fault]:
    """Where ``kind`` is missing, say which kinds there are: the validator lists them when it is
    asked with a kind that cannot be."""
    without = {f.path[:-1] for f in faults if f.kind == "missing" and f.path[-1:] == ("kind",)}
    if not without:
        return faults
    try:
        adapter.validate_python(_with_kinds(data, without))
    except ValidationError as error:
        asked = _faults(error, _with_kinds(data, without))
    else:
        asked = []
    known: dict[FieldPath, list[str]] = {}
    for fault in asked:
        if _is_wrong_kind(fault) and fault.path[:-1] in without:
            known.setdefault(fault.path[:-1], []).append(fault.expected)
    kept = [f for f in faults if not any(f.path[: len(p)] == p for p in known)]
    for path, kinds in known.items():
        message = f"is required: one of {_listed(kinds)}"
        kept.append(_Fault((*path, "kind"), (), "missing", message, ""))
    return kept


def _with_kinds(data: Any, paths: set[FieldPath], path: FieldPath = ()) -> Any:
    if isinstance(data, dict):
        copy = {key: _with_kinds(value, paths, (*path, key)) for key, value in data.items()}
        return copy | {"kind": _IMPOSSIBLE_KIND} if path in paths else copy
    if isinstance(data, list):
        return [_with_kinds(value, paths, (*path, i)) for i, value in enumerate(data)]
    return data


def _is_wrong_kind(fault: _Fault) -> bool:
    return fault.kind == "literal_error" and fault.path[-1:] == ("kind",)


def _of_meant_members(faults: list[_Fault]) -> list[_Fault]:
    """Leave out what union members complained about that the input did not mean.

    A member is not meant when its ``kind`` is another one. Where no member has the input's
    kind, one problem lists the known ones.
    """
    wrong: dict[FieldPath, dict[str, str]] = {}
    tried: dict[FieldPath, set[str]] = {}
    for fault in faults:
        for where, member in fault.members:
            tried.setdefault(where, set()).add(member)
            if _is_wrong_kind(fault) and fault.path == (*where, "kind"):
                wrong.setdefault(where, {})[member] = fault.expected
    unknown = {where for where, members in wrong.items() if set(members) == tried[where]}
    kept = [
        fault
        for fault in faults
        if not any(member in wrong.get(where, {}) for where, member in fault.members)
    ]
    for where in unknown:
        message = f"must be one of {_listed(wrong[where].values())}"
        kept.append(_Fault((*where, "kind"), (), "literal_error", message, ""))
    return kept


def _listed(expected: Any) -> str:
    return ", ".join(
        dict.fromkeys(str(text).replace("'", "").replace(" or ", ", ") for text in expected)
    )


# --- unknown fields ----------------------------------------------------------------------


def unknown_field_message(name: str, known: Sequence[str]) -> str:
    """Plain words for a field that does not exist, with the nearest ones that do."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return f"is not a known field; did you mean {' or '.join(near)}?"
    return (
        f"is not a known field; known are {', '.join(known)}" if known else "is not a known field"
    )


def _known_fields(adapter: TypeAdapter[Any], fault: _Fault, data: Any) -> list[str]:
    schema = adapter.json_schema()
    candidates = list(_variants(schema, schema))
    value = data
    for step in fault.path[:-1]:
        candidates = _meant(candidates, value)
        below = [child for one in candidates for child in _children(one, step)]
        candidates = [variant for child in below for variant in _variants(child, schema)]
        value = value[step]
    names: dict[str, None] = {}
    for one in _meant(candidates, value):
        names.update(dict.fromkeys(one.get("properties", {})))
    return list(names)


def _meant(candidates: list[Schema], value: Any) -> list[Schema]:
    """The object schemas whose ``kind`` is the value's; all of them where none has it."""
    kind = value.get("kind") if isinstance(value, dict) else None
    same = [one for one in candidates if kind in _kinds(one)]
    return same or candidates


def _kinds(schema: Schema) -> list[Any]:
    kind = schema.get("properties", {}).get("kind", {})
    return [*kind.get("enum", []), *([kind["const"]] if "const" in kind else [])]


def _variants(schema: Schema, root: Schema) -> Iterator[Schema]:
    """A JSON Schema with references followed and alternatives spread out."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1].replace("~1", "/").replace("~0", "~")
        yield from _variants(root["$defs"][name], root)
        return
    alternatives = [*schema.get("anyOf", []), *schema.get("oneOf", []), *schema.get("allOf", [])]
    if not alternatives:
        yield schema
    for alternative in alternatives:
        yield from _variants(alternative, root)


def _children(schema: Schema, step: Step) -> Iterator[Schema]:
    if isinstance(step, int) and "items" in schema:
        yield schema["items"]
    elif isinstance(step, int) and step < len(schema.get("prefixItems", [])):
        yield schema["prefixItems"][step]
    elif step in schema.get("properties", {}):
        yield schema["properties"][step]
    elif isinstance(schema.get("additionalProperties"), dict):
        yield schema["additionalProperties"]
