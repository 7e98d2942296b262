"""The settings as the hub uses them: what every field means, and what it is by default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, Field, SecretStr, field_validator

from hub.config.section import Section
from hub.config.web_settings import WebSettings
from hub.domain.critical import CriticalRule
from hub.domain.delivery import DocumentKind, RetryPolicy
from hub.domain.inference import Outcome, Priority
from hub.domain.routing import LateImages, RouteMode, RouteStart, RouteTrigger, WhenIncomplete

BUILTIN = "builtin:"
CONFIG_VARIABLE = "CAIDX_CONFIG"
"""Environment variable that names the configuration file."""
DEFAULTS_FILE = "(defaults)"
"""Stands for the file name where there is no file."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_WHAT_NAMES_ARE = "must be lower-case letters, digits and hyphens, at most 63 of them"


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(_WHAT_NAMES_ARE)
    return name


def _checked_timezone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("must be a time zone of the IANA database, e.g. Europe/Berlin")
    return name


Name = Annotated[str, AfterValidator(_checked_name)]


class IdentifierSettings(Section):
    """An identifier with the system that issued it."""

    system: str
    """URI of the issuing system, e.g. `urn:oid:1.2.276.0.76.4.1`."""
    value: str
    """The identifier itself."""


class SiteSettings(Section):
    """The institution that runs the hub and answers for its results."""

    institution_name: str = "Unnamed institution"
    """Stands in every report as the organisation that is responsible for it."""
    organization_identifiers: tuple[IdentifierSettings, ...] = ()
    """Identifiers of the institution, e.g. its national register number."""
    timezone: Annotated[str, AfterValidator(_checked_timezone)] = "UTC"
    """Local time of the institution (IANA name), for reports and DICOM dates and times."""
    result_system: str = "urn:caidx:results"
    """URI of the system of the identifiers that the hub gives to its own results."""
    patient_identifier_system: str = ""
    """URI of the system of patient IDs that arrive without an issuer; empty: unknown."""
    identifier_systems: Mapping[str, str] = Field(default_factory=dict)
    """Issuer as in the DICOM header (of patient ID or accession number) -> URI of its system."""

    @property
    def systems_by_issuer(self) -> Mapping[str, str]:
        """``identifier_systems``, and under the empty issuer the system of patient IDs without
        one."""
        without = {"": self.patient_identifier_system} if self.patient_identifier_system else {}
        return without | dict(self.identifier_systems)

    @property
    def zone(self) -> ZoneInfo:
        """The time zone itself."""
        return ZoneInfo(self.timezone)


class DatabaseSettings(Section):
    """Where the hub keeps what it knows."""

    url: SecretStr | None = None
    """`postgresql://user:password@host/name`, best as a reference (`env:CAIDX_DATABASE_URL`).
    Without it: one SQLite file in the data directory."""

    @field_validator("url")
    @classmethod
    def _known_database(cls, url: SecretStr | None) -> SecretStr | None:
        text = "" if url is None else url.get_secret_value()
        if text and not text.startswith(("env:", "file:", "postgresql", "sqlite:///")):
            raise ValueError("must begin with postgresql://, sqlite:///, env: or file:")
        return url


class StorageSettings(Section):
    """How received images are kept in the data directory."""

    pool_bytes: int = Field(default=256 << 20, ge=0, le=1 << 40)
    """Bytes of disk space that stand ready, already written with zeros, so that storing an image
    durably costs least. More of it takes longer bursts at full speed; 0: none."""
    minimum_free_bytes: int = Field(default=1 << 30, ge=0)
    """Below this much free disk space nothing more is accepted (DICOM status A700, out of
    resources, for which senders try again): databases and logs need room."""
    maximum_instance_bytes: int = Field(default=4 << 30, ge=1 << 20)
    """The largest single object that is accepted, in bytes."""


class CompletenessSettings(Section):
    """When a study counts as complete where nothing tells how many images it has."""

    quiet_seconds: float = Field(default=2.0, ge=0, le=3600)
    """After the sender has ended its transfer: seconds without a new image."""
    straggler_seconds: float = Field(default=30.0, gt=0, le=86400)
    """After a transfer that broke off, or is still open: seconds without a new image."""
    archive: str = ""
    """Name of the archive that is asked how many images a study has, once for each time that it
    arrives; empty: none is asked."""
    ask_after_seconds: float = Field(default=0.5, ge=0, le=3600)
    """Seconds without a new image after which the archive is asked: it may still be receiving the
    same images itself."""
    fetch_missing: bool = False
    """Whether images that the archive has, and the hub has not when the study is quiet, are
    fetched from it."""
    fetch_seconds: float = Field(default=60.0, gt=0, le=3600)
    """Seconds within which they have to arrive; then the study goes on without them, and every
    report says of how many images."""
    series_quiet_seconds: float = Field(default=5.0, gt=0, le=3600)
    """For routes that `start` with a series: seconds without a new image of that series, where
    nothing else tells that it is complete. The same for all sources."""


class DeliverySettings(Section):
    """How often, and how patiently, a destination is tried."""

    first_delay: float = Field(default=30.0, gt=0)
    """Seconds to wait after the first failure."""
    factor: float = Field(default=2.0, ge=1)
    """Each wait is this many times the one before it ..."""
    max_delay: float = Field(default=600.0, gt=0)
    """... but never more than this many seconds."""
    attempts: int = Field(default=10, ge=1)
    """After this many failures the document is a dead letter for a person to look at."""
    confirm_within: float = Field(default=3600.0, gt=0)
    """Seconds within which a destination whose `confirm` is set has to confirm that it keeps a
    document; then it is sent again."""

    @property
    def policy(self) -> RetryPolicy:
        """The same as the domain has it."""
        return RetryPolicy(**self.model_dump())


class SourceSettings(Section):
    """A way in; the fields beside these belong to its `kind`."""

    name: Name
    """Unique; stands in the audit log and in metrics."""
    kind: str
    """The connector, e.g. `dicom`."""
    completeness: CompletenessSettings = CompletenessSettings()
    """Overrides `completeness` for studies from this source, field by field."""
    options: Any = Field(default=None)
    """The connector's own configuration, validated."""


class ArchiveSettings(Section):
    """Where studies lie that the hub may ask for; the fields beside these belong to its `kind`."""

    name: Name
    """Unique, among sources too; `completeness` and `priors` name it."""
    kind: str
    """The connector, e.g. `dicom` or `dicomweb`."""
    options: Any = Field(default=None)
    """The connector's own configuration, validated."""


class HealthRecordSettings(Section):
    """Where measured values of patients are kept; the fields beside these belong to its `kind`."""

    name: Name
    """Unique; stands in the audit log beside the values that came from it."""
    kind: str
    """The connector, e.g. `fhir`."""
    options: Any = Field(default=None)
    """The connector's own configuration, validated."""


class OutboundSettings(Section):
    """Whom the hub may call where others say so: URLs that stand in manifests and in FHIR
    resources."""

    private_networks: tuple[str, ...] = ()
    """Addresses that are not public and may be called all the same, as networks
    (`10.20.0.0/16`) or single addresses; left out: none. Destinations, archives and health
    records of this file are not affected: you wrote their URLs yourself."""


class PriorsSettings(Section):
    """Prior examinations, for models whose manifest wants them (`input.priors`)."""

    archives: tuple[str, ...] | None = None
    """Names of the archives to look in, after what the hub itself holds; left out: all."""
    time_limit_seconds: float = Field(default=120.0, gt=0, le=86400)
    """Seconds within which they have to be found and fetched; then the model runs without, and
    the report says so."""


class DestinationSettings(Section):
    """A way out; the fields beside these belong to its `kind`."""

    name: Name
    """Unique; routes name it in `deliver_to`."""
    kind: str
    """The connector, e.g. `dicom`, `fhir` or `folder`."""
    delivery: DeliverySettings = DeliverySettings()
    """Overrides `delivery` for this destination, field by field."""
    documents: tuple[DocumentKind, ...] = ()
    """What it gets; left out: everything that a destination of its kind can take."""
    concurrency: int = Field(default=4, ge=1, le=64)
    """Most documents that are sent to it at the same time, by all workers together."""
    rate_per_minute: float | None = Field(default=None, gt=0, le=60000)
    """Most documents that are sent to it in a minute, by all workers together; left out: any."""
    outcomes: tuple[Outcome, ...] = (Outcome.ASSESSED, Outcome.NOT_ASSESSABLE)
    """The results of which it gets a report. One that replaces a report that it got it always
    gets."""
    critical_only: bool = False
    """Whether it gets only reports with a critical finding, such as a pager's webhook, and the
    escalation of a route that finds too many."""
    options: Any = Field(default=None)
    """The connector's own configuration, validated."""


class IdentitySettings(Section):
    """What is checked before a result leaves the hub."""

    unique_accession_numbers: bool = True
    """Whether an accession number of one issuer belongs to one patient: results of a study whose
    number another patient's study has, too, are quarantined. Switch it off where departments use
    the same numbers without an issuer."""


class ModelSettings(Section):
    """A model that the hub runs."""

    package: str
    """Folder that holds the model's `model.yaml`, or `builtin:<id>` for one that an installed
    package ships, e.g. `builtin:lung-density`."""
    adapter: str | None = None
    """The kind of model adapter that runs it; left out: as for registered models, the one that
    runs the manifest's `runtime.kind` (`registration.adapters`)."""


class RegistrationSettings(Section):
    """Models that are registered while the hub runs (`caidx model register`, and the API)."""

    maximum_package_mib: int = Field(default=2048, ge=1, le=1 << 20)
    """The largest package, in MiB, unpacked."""
    load_seconds: float = Field(default=300.0, gt=0, le=3600)
    """Longest time for the trial load of a model before it is kept or activated."""
    adapters: Mapping[str, str] = Field(default_factory=dict)
    """`runtime.kind` of a manifest -> the kind of model adapter that runs it; needed where several
    are installed that can. Left out: `onnx_local` for `onnx`, else the only one there is."""


class RouteRetentionSettings(Section):
    """How long the studies that a route matches are kept."""

    images_days: float | None = Field(default=None, ge=0, le=36500)
    """As in `retention`; left out: the same."""
    results_days: float | None = Field(default=None, ge=0, le=36500)
    """As in `retention`; left out: the same."""


class RetentionSettings(Section):
    """What is deleted, and when. A study is never deleted before it is dealt with: while anything
    of it is open, undelivered or failed, while it is held back, and while a legal hold is on it.
    What the audit log says is never deleted."""

    images_days: float = Field(default=30.0, ge=0, le=36500)
    """Days from the last image to the deletion of a study's images."""
    results_days: float = Field(default=365.0, ge=0, le=36500)
    """Days from the last image to the deletion of its encoded results, which destinations have."""
    minimum_free_gib: float = Field(default=10.0, ge=0, le=1048576)
    """With less space on the disk of the data directory, images are deleted before their time,
    the oldest delivered studies first; 0: never."""
    youngest_hours: float = Field(default=24.0, ge=0, le=87600)
    """But never so young ones, counted from the last image."""
    jobs_days: float = Field(default=30.0, ge=1, le=36500)
    """Days that the job engine's records of finished jobs and of ended processes are kept."""
    every_seconds: float = Field(default=60.0, ge=0.1, le=86400)
    """How often a worker looks for something to delete; one of them at a time does."""


class RouteSettings(Section):
    """A rule: when a study matches, these series go to this model."""

    name: Name
    """Unique; stands with the answer in the timeline of every study."""
    when: str
    """CEL expression over `study`; true means that the model is asked."""
    series: str = "true"
    """CEL expression over `study` and `series`; selects the model's input."""
    model: str
    """`id` of one of the models."""
    priority: Literal["stat", "urgent", "routine"] = "routine"
    """`stat` overtakes `urgent`, which overtakes `routine`."""
    deliver_to: tuple[str, ...] | None = None
    """Names of destinations; left out: every destination."""
    mode: Literal["active", "shadow"] = "active"
    """`shadow`: the model runs and is recorded, and nothing is delivered."""
    trigger: Literal["arrival", "order"] = "arrival"
    """`arrival`: it is applied to every study and to all values that arrive, and an order may name
    it. `order`: only where an order asks (a FHIR Task or ServiceRequest)."""
    start: Literal["study", "series"] = "study"
    """`series`: the model is asked as soon as a series that `series` selects is complete, while
    the rest of the study is still arriving; `when` then sees only what has arrived."""
    late_images: Literal["rerun", "keep"] = "rerun"
    """Images that come after the answer: `rerun` asks again where they change the model's input,
    and the new report amends the old one; `keep` leaves the first result as it is."""
    incomplete: Literal["state", "refuse"] = "state"
    """A study of which images are known to be missing: `state` runs the model, and every report
    says of how many images; `refuse` tells a person, and runs it when they have come."""
    critical: tuple[CriticalRule, ...] | None = None
    """Which findings a person has to know at once; left out: as the model's manifest says."""
    alerts_per_hour: int = Field(default=10, ge=1, le=10000)
    """Most alerts of critical findings in an hour. Beyond it the model rather than the patients
    may be ill: one escalation is sent instead of further alerts, the reports go out as ever."""
    retention: RouteRetentionSettings = RouteRetentionSettings()
    """Overrides `retention` for studies that match; of several routes the longest counts."""

    @property
    def rank(self) -> Priority:
        """The priority as the domain has it."""
        return Priority[self.priority.upper()]

    @property
    def route_mode(self) -> RouteMode:
        """The mode as the domain has it."""
        return RouteMode(self.mode)

    @property
    def behaviour(self) -> Mapping[str, Any]:
        """When it starts and what it does with late and missing images, as the domain has it."""
        return {
            "trigger": RouteTrigger(self.trigger),
            "start": RouteStart(self.start),
            "late_images": LateImages(self.late_images),
            "incomplete": WhenIncomplete(self.incomplete),
            "critical": self.critical,
            "alerts_per_hour": self.alerts_per_hour,
        }


class WorkerSettings(Section):
    """The processes that do the work."""

    count: int = Field(default=1, ge=1, le=256)
    """Worker processes that `caidx serve` starts on this host."""
    heartbeat_seconds: float = Field(default=2.0, gt=0, le=60)
    """How often a process says that it is alive; one that is silent for several heartbeats has
    its work taken over."""


class LogSettings(Section):
    """What is logged, and how it looks. Patient data is never logged."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important lines that are written."""
    format: Literal["json", "console"] = "json"
    """One JSON object per line, or lines for people."""


class PlainSections(Section):
    """The sections that need no component to be validated."""

    site: SiteSettings = SiteSettings()
    """The institution."""
    data: Path = Path("var")
    """Folder for the database (if it is SQLite), images and results."""
    database: DatabaseSettings = DatabaseSettings()
    """Where the hub keeps what it knows."""
    storage: StorageSettings = StorageSettings()
    """How received images are kept."""
    models: tuple[ModelSettings, ...] = ()
    """The models. Left out: the two reference models that the hub ships."""
    routes: tuple[RouteSettings, ...] = ()
    """The rules. Left out: a rule for each reference model among the models."""
    completeness: CompletenessSettings = CompletenessSettings()
    """When a study counts as complete."""
    priors: PriorsSettings = PriorsSettings()
    """Prior examinations."""
    registration: RegistrationSettings = RegistrationSettings()
    """Models that are registered while the hub runs."""
    outbound: OutboundSettings = OutboundSettings()
    """Whom the hub may call where others say so."""
    delivery: DeliverySettings = DeliverySettings()
    """How destinations are tried."""
    identity: IdentitySettings = IdentitySettings()
    """What is checked before a result leaves the hub."""
    retention: RetentionSettings = RetentionSettings()
    """What is deleted, and when."""
    workers: WorkerSettings = WorkerSettings()
    """The processes that do the work."""
    web: WebSettings = WebSettings()
    """Health, metrics, the API, and the sources that are part of the HTTP server."""
    log: LogSettings = LogSettings()
    """What is logged."""


class Settings(PlainSections):
    """Everything the hub was told, validated, with the defaults filled in."""

    file: str = DEFAULTS_FILE
    """Where it was read from."""
    sources: tuple[SourceSettings, ...] = ()
    """The ways in. Left out: DICOM C-STORE, AE title CAIDX, on 127.0.0.1:11112."""
    archives: tuple[ArchiveSettings, ...] = ()
    """Where the hub may ask for studies: how many images they have, missing images, priors."""
    health_records: tuple[HealthRecordSettings, ...] = ()
    """Where the hub looks for measured values that an order needs and did not bring."""
    destinations: tuple[DestinationSettings, ...] = ()
    """The ways out. Left out: the folder `results` in the data directory."""
    adapters: Mapping[str, Any] = Field(default_factory=dict)
    """Validated options of each model adapter kind that can be used: what the file says, or the
    kind's defaults where it has one for everything."""

    @property
    def database_url(self) -> str:
        """The configured URL, or that of the SQLite file in the data directory."""
        url = self.database.url
        return (
            url.get_secret_value() if url else f"sqlite:///{self.data.absolute() / 'caidx.sqlite'}"
        )
