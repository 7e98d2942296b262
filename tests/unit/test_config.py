"""The settings: defaults that work, and mistakes that name file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.config import (
    Settings,
    default_settings,
    load_settings,
    read_settings,
    settings_schema,
)
from hub.domain.delivery import DocumentKind, RetryPolicy
from hub.domain.inference import Priority
from hub.domain.routing import RouteMode
from hub.errors import ConfigError
from hub.formats.yaml_document import read_yaml
from hub.registry import discover
from tests.unit.components import (
    COMPONENTS,
    DicomListener,
    DicomPeer,
    FhirServer,
    OnnxOptions,
    ResultFolder,
)


def load(text: str) -> Settings:
    return load_settings(text, "caidx.yaml", COMPONENTS)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return [str(problem) for problem in caught.value.problems]


# --- defaults ------------------------------------------------------------------------------


def test_without_a_file_the_hub_receives_dicom_and_writes_to_a_folder() -> None:
    settings = default_settings(COMPONENTS)
    assert [(s.name, s.kind, s.options) for s in settings.sources] == [
        ("dicom", "dicom", DicomListener(ae_title="CAIDX", host="127.0.0.1", port=11112))
    ]
    assert [(d.name, d.kind, d.options) for d in settings.destinations] == [
        ("results", "folder", ResultFolder(folder=Path("var/results")))
    ]
    assert [model.package for model in settings.models] == [
        "builtin:lung-density",
        "builtin:ecg-intervals",
    ]
    assert [(r.model, r.deliver_to) for r in settings.routes] == [
        ("lung-density", ("results",)),
        ("ecg-intervals", ("results",)),
    ]
    assert settings.adapters == {"onnx_local": OnnxOptions()}
    assert settings.database_url == f"sqlite:///{Path.cwd()}/var/caidx.sqlite"


def test_a_file_that_says_one_thing_keeps_every_other_default() -> None:
    settings = load("data: /srv/caidx\n")
    assert settings.database_url == "sqlite:////srv/caidx/caidx.sqlite"
    assert settings.destinations[0].options == ResultFolder(folder=Path("/srv/caidx/results"))
    assert len(settings.routes) == 2


def test_the_default_rules_are_those_of_the_configured_reference_models() -> None:
    settings = load("models: [{package: 'builtin:ecg-intervals'}]\n")
    assert [route.name for route in settings.routes] == ["ecg"]


def test_an_empty_list_means_none_and_not_the_default() -> None:
    settings = load("sources: []\ndestinations: []\nmodels: []\nroutes: []\n")
    assert settings.sources == ()
    assert settings.destinations == ()
    assert settings.routes == ()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        default_settings(COMPONENTS).data = Path("elsewhere")  # type: ignore[misc]


# --- what a file says ----------------------------------------------------------------------

FULL = """\
destinations:
  - name: pacs
    kind: dicom
    host: 10.0.0.2
    port: 104
    called_ae_title: PACS
    delivery: {attempts: 3}
  - {name: ehr, kind: fhir, url: "http://ehr/fhir"}
sources:
  - {name: scanner, kind: dicom, port: 11113, completeness: {quiet_seconds: 0.5}}
completeness: {quiet_seconds: 5, straggler_seconds: 60}
delivery: {first_delay: 1, attempts: 4}
adapters:
  onnx_local: {threads: 3}
routes:
  - name: chest
    when: "true"
    model: lung-density
    priority: stat
    deliver_to: [pacs]
    mode: shadow
  - {name: chest-again, when: "true", model: lung-density}
"""


def test_a_section_of_a_connector_becomes_its_own_class() -> None:
    settings = load(FULL)
    expected = DicomPeer(host="10.0.0.2", port=104, called_ae_title="PACS")
    assert settings.destinations[0].options == expected
    assert type(settings.destinations[0].options) is DicomPeer
    assert settings.adapters["onnx_local"].threads == 3


def test_an_override_replaces_only_the_fields_that_it_names() -> None:
    settings = load(FULL)
    assert settings.sources[0].completeness.quiet_seconds == 0.5
    assert settings.sources[0].completeness.straggler_seconds == 60
    pacs, ehr = settings.destinations
    assert pacs.delivery.policy == RetryPolicy(1, 2, 600, 3)
    assert ehr.delivery.policy == RetryPolicy(1, 2, 600, 4)


def test_a_route_has_the_domains_priority_and_mode() -> None:
    route = load(FULL).routes[0]
    assert route.rank is Priority.STAT
    assert route.route_mode is RouteMode.SHADOW


def test_a_destination_gets_all_it_can_take_unless_told_otherwise() -> None:
    text = "destinations: [{name: a, kind: folder, folder: x, documents: [pdf]},"
    settings = load(text + "{name: b, kind: folder, folder: y}]")
    assert settings.destinations[0].documents == (DocumentKind.PDF,)
    assert settings.destinations[1].documents == tuple(DocumentKind)


def test_a_connectors_own_choice_of_documents_counts() -> None:
    ehr = load(FULL).destinations[1]
    assert ehr.documents == (DocumentKind.FHIR,)
    assert ehr.options == FhirServer(url="http://ehr/fhir")


def test_a_patient_id_without_an_issuer_has_the_sites_own_system() -> None:
    site = load("site: {patient_identifier_system: 'urn:x', identifier_systems: {A: 'urn:a'}}").site
    assert site.systems_by_issuer == {"": "urn:x", "A": "urn:a"}
    assert load("").site.systems_by_issuer == {}


def test_a_route_that_names_no_destination_delivers_to_all() -> None:
    assert load(FULL).routes[1].deliver_to == ("pacs", "ehr")


# --- secrets -------------------------------------------------------------------------------

LOGIN = """\
destinations:
  - name: ehr
    kind: fhir
    url: http://ehr/fhir
    token: {token}
    login:
      user: hub
      password: {password}
"""


def test_secrets_come_from_the_environment_and_from_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EHR_TOKEN", "t0ken")
    (tmp_path / "password").write_text("pa55\n")
    settings = load(LOGIN.format(token="env:EHR_TOKEN", password=f"file:{tmp_path}/password"))
    options = settings.destinations[0].options
    assert isinstance(options, FhirServer)
    assert options.token is not None
    assert options.token.get_secret_value() == "t0ken"
    assert options.login is not None
    assert options.login.password.get_secret_value() == "pa55"
    assert "t0ken" not in repr(settings)
    assert "t0ken" not in settings.model_dump_json()


def test_the_database_url_may_be_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB", "postgresql://u:p@h/caidx")
    assert load("database: {url: 'env:DB'}\n").database_url == "postgresql://u:p@h/caidx"


def test_a_secret_that_is_not_there_is_named_with_its_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    assert problems(LOGIN.format(token="env:NOT_THERE", password="file:/not/there")) == [
        "caidx.yaml:5: destinations.0.token: the variable NOT_THERE is not set",
        (
            "caidx.yaml:8: destinations.0.login.password: cannot read /not/there: "
            "No such file or directory"
        ),
    ]


# --- mistakes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: [1\n", "caidx.yaml:2: (document): not valid YAML"),
        ("dta: x\n", "caidx.yaml:1: dta: is not a known field; did you mean data?"),
        ("web: {port: 80808}\n", "caidx.yaml:1: web.port: must be at most 65535"),
        (
            "\nlog:\n  level: loud\n",
            "caidx.yaml:3: log.level: must be debug, info, warning or error",
        ),
        (
            "site: {timezone: Mars/Base}\n",
            "caidx.yaml:1: site.timezone: must be a time zone of the IANA database",
        ),
        ("database: {url: 'mysql://x'}\n", "caidx.yaml:1: database.url: must begin with"),
        (
            "destinations:\n  - name: a\n    kind: diccom\n",
            "caidx.yaml:3: destinations.0.kind: must be one of dicom, fhir, folder, sink",
        ),
        (
            "sources:\n  - name: a\n    kind: fhir\n",
            "caidx.yaml:3: sources.0.kind: must be dicom",
        ),
        (
            "destinations:\n  - name: a\n",
            "caidx.yaml:2: destinations.0.kind: is required: one of dicom, fhir, folder, sink",
        ),
        (
            "destinations:\n  - name: a\n    kind: folder\n    foldr: x\n    folder: y\n",
            "caidx.yaml:4: destinations.0.foldr: is not a known field; did you mean folder?",
        ),
        (
            "destinations:\n  - {name: a, kind: folder, folder: y, delivry: {}}\n",
            "caidx.yaml:2: destinations.0.delivry: is not a known field; did you mean delivery?",
        ),
        (
            "destinations:\n  - name: Big Name\n    kind: folder\n    folder: x\n",
            "caidx.yaml:2: destinations.0.name: must be lower-case letters, digits and hyphens",
        ),
        (
            (
                "destinations:\n  - {name: a, kind: folder, folder: x}\n"
                "  - kind: folder\n    name: a\n    folder: y\n"
            ),
            "caidx.yaml:4: destinations.1.name: a is taken; the first one is on line 2",
        ),
        (
            "models: [{package: 'builtin:x', adapter: onx}]\n",
            "caidx.yaml:1: models.0.adapter: must be onnx_local or vendor_http",
        ),
        (
            "models:\n  - package: 'builtin:x'\n    adapter: vendor_http\nroutes: []\n",
            "caidx.yaml:3: adapters.vendor_http.url: is required",
        ),
        (
            "adapters: {onnx_locl: {}}\n",
            "caidx.yaml:1: adapters.onnx_locl: is not a known field; did you mean onnx_local?",
        ),
        (
            "adapters:\n  onnx_local:\n    threads: 0\n",
            "caidx.yaml:3: adapters.onnx_local.threads: must be at least 1",
        ),
        (
            "models:\n  - package: /not/there\nroutes: []\n",
            "caidx.yaml:2: models.0.package: there is no",
        ),
        (
            "models:\n  - package: builtin:x\n  - package: builtin:x\nroutes: []\n",
            "caidx.yaml:3: models.1.package: the model x is configured twice",
        ),
        (
            "routes:\n  - name: a\n    when: 'true'\n    model: lungs\n",
            (
                "caidx.yaml:4: routes.0.model: there is no model lungs; "
                "configured: lung-density, ecg-intervals"
            ),
        ),
        (
            (
                "routes:\n  - name: a\n    when: 'true'\n    model: lung-density\n    deliver_to:\n"
                "      - results\n      - pacs\n"
            ),
            "caidx.yaml:7: routes.0.deliver_to.1: there is no destination pacs; configured",
        ),
        (
            (
                "destinations: [{name: hole, kind: sink, folder: x}]\nroutes:\n"
                "  - {name: a, when: 'true', model: lung-density, deliver_to: [hole]}\n"
            ),
            "caidx.yaml:3: routes.0.deliver_to.0: a sink destination takes no documents",
        ),
        (
            "routes:\n  - name: a\n    when: true\n    model: lung-density\n",
            "caidx.yaml:3: routes.0.when: must be text: put it in quotes",
        ),
        (
            (
                "destinations:\n  - {name: a, kind: dicom, host: h, port: 1, called_ae_title: X,\n"
                "     documents: [sr, fhir]}\n"
            ),
            (
                "caidx.yaml:3: destinations.0.documents.1: "
                "a dicom destination cannot take fhir; it takes sr, seg"
            ),
        ),
        (
            "routes:\n  - name: a\n    when: study.x ==\n    model: lung-density\n",
            "caidx.yaml:3: routes.0.when: is not a CEL rule: ",
        ),
        (
            "routes:\n  - name: a\n    when: series.modality == 'CT'\n    model: lung-density\n",
            "caidx.yaml:3: routes.0.when: is not a CEL rule: ",
        ),
        (
            "completeness: {quiet_seconds: fast}\n",
            "caidx.yaml:1: completeness.quiet_seconds: must be a number",
        ),
    ],
)
def test_each_mistake_names_file_line_and_field(text: str, expected: str) -> None:
    found = problems(text)
    assert len(found) == 1, found
    assert found[0].startswith(expected)


def test_all_mistakes_are_listed_at_once() -> None:
    found = problems("web:\n  port: x\nlog:\n  levl: info\ndestinations:\n  - {name: a, kind: b}\n")
    assert [line.split(": ")[0] for line in found] == [
        "caidx.yaml:2",
        "caidx.yaml:4",
        "caidx.yaml:6",
    ]


def test_a_model_package_in_a_folder_is_known_by_the_id_of_its_manifest(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("id: stroke\n")
    text = f"models: [{{package: {tmp_path}}}]\n"
    text += "routes:\n  - {name: a, when: 'true', model: stroke}\n"
    assert load(text).routes[0].model == "stroke"


# --- schema --------------------------------------------------------------------------------


def test_the_schema_documents_every_field_of_every_section() -> None:
    schema = settings_schema(COMPONENTS)
    undocumented = [
        f"{title}.{name}"
        for title, section in schema["$defs"].items()
        for name, field in section.get("properties", {}).items()
        if title.endswith("Settings") and "description" not in field
    ]
    assert undocumented == []
    assert schema["additionalProperties"] is False
    members = schema["properties"]["destinations"]["items"]["anyOf"]
    assert [m["$ref"].rsplit("/")[-1] for m in members] == [
        "DicomDestination",
        "FhirDestination",
        "FolderDestination",
        "SinkDestination",
    ]


# --- with what is really installed -----------------------------------------------------------

EXAMPLE = Path(__file__).parents[2] / "deploy" / "caidx.example.yaml"


def test_the_example_configuration_is_valid_and_says_something_about_every_section(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("k3y")
    monkeypatch.setenv("CAIDX_DATABASE_URL", "postgresql://caidx@localhost/caidx")
    for name in ("CAIDX_RESEARCH_TOKEN", "CAIDX_PAGER_SECRET", "CAIDX_ASSESSMENT_KEY"):
        monkeypatch.setenv(name, "s3cret")
    text = EXAMPLE.read_text(encoding="utf-8").replace("/run/secrets/fhir-key", str(key))
    components = discover()
    settings = load_settings(text, EXAMPLE.name, components)
    assert [route.mode for route in settings.routes] == ["active"] * 3 + ["shadow"]
    assert settings.sources[1].completeness.quiet_seconds == 30
    sections = set(settings_schema(components)["properties"])
    assert sections == set(read_yaml(text, EXAMPLE.name).data)
    sendable = {kind for kind, one in components.connectors.items() if one.destination_config}
    assert {one.kind for one in settings.destinations} == sendable


def test_the_defaults_are_valid_with_the_installed_components() -> None:
    settings = default_settings(discover())
    assert settings.sources[0].options.port == 11112
    assert settings.sources[0].options.ae_title == "CAIDX"
    assert settings.sources[0].options.host == "127.0.0.1"
    assert settings.destinations[0].options.folder == Path("var/results")


def test_a_file_that_cannot_be_read_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_settings(tmp_path / "none.yaml", COMPONENTS)


def test_caidx_yaml_in_the_working_directory_is_read_when_no_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_settings(None, COMPONENTS).data == Path("var")
    (tmp_path / "caidx.yaml").write_text("data: elsewhere\n")
    assert read_settings(None, COMPONENTS).data == Path("elsewhere")


# --- archives --------------------------------------------------------------------------------

ARCHIVE = "archives: [{name: old, kind: dicom, host: h, port: 104, called_ae_title: OLD}]\n"


def test_an_archive_is_validated_by_its_connector_and_named_by_completeness() -> None:
    settings = load(
        ARCHIVE + "completeness: {archive: old, fetch_missing: true}\npriors: {archives: [old]}\n"
        "sources: [{name: a, kind: dicom}, {name: b, kind: dicom, completeness: {archive: ''}}]\n"
    )
    (archive,) = settings.archives
    assert archive.options == DicomPeer(host="h", port=104, called_ae_title="OLD")
    assert [s.completeness.archive for s in settings.sources] == ["old", ""]
    assert settings.sources[0].completeness.fetch_missing
    assert settings.priors.archives == ("old",)


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("completeness: {archive: new}\n", "completeness.archive", "there is no archive new"),
        ("priors: {archives: [new]}\n", "priors.archives.0", "there is no archive new"),
        (
            "sources: [{name: old, kind: dicom}]\n",
            "archives.0.name",
            "old is the name of a source",
        ),
    ],
)
def test_archives_that_are_named_have_to_be_there(text: str, field: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(ARCHIVE + text)
    found = [(problem.field, problem.message) for problem in raised.value.problems]
    assert any(place == field and said.startswith(message) for place, said in found)


def test_a_route_may_name_a_registered_model() -> None:
    text = "routes:\n  - name: a\n    when: 'true'\n    model: nodules\n"
    for registered in (None, {"nodules"}):
        settings = load_settings(text, "caidx.yaml", COMPONENTS, registered=registered)
        assert settings.routes[0].model == "nodules"
    with pytest.raises(ConfigError, match=r"yaml:4: routes\.0\.model: .* registered: other"):
        load_settings(text, "caidx.yaml", COMPONENTS, registered={"other"})


@pytest.mark.parametrize(
    ("adapters", "said"),
    [
        ("{onnx: none}", "registration.adapters.onnx: there is no adapter none; installed"),
        ("{other: onnx_local}", "registration.adapters.other: adapter onnx_local runs onnx models"),
    ],
)
def test_the_adapter_of_registered_models_is_one_that_runs_them(adapters: str, said: str) -> None:
    assert said in "\n".join(problems(f"registration: {{adapters: {adapters}}}\n"))
