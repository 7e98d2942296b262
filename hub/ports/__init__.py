"""What the hub expects of its parts: the seams at which a stranger's package plugs in.

Connectors and model adapters know these protocols, the domain, the formats and the errors,
and nothing else of the hub. They arrive through the entry-point groups
``caidx.connectors`` and ``caidx.model_adapters``.
"""

from __future__ import annotations

from hub.ports.archives import (
    Archive,
    Holdings,
    RemoteSeries,
    RemoteStudy,
    StudyQuery,
)
from hub.ports.components import (
    AdapterContext,
    AdapterKind,
    ArchiveContext,
    Connector,
    DestinationContext,
    HttpEndpoint,
    RecordContext,
    Refuse,
    SourceContext,
)
from hub.ports.destinations import (
    CommitmentReport,
    Confirmations,
    Confirming,
    Destination,
    SendFiles,
    SendTls,
    SentAs,
    SentFile,
)
from hub.ports.images import (
    ImageRenderer,
    RenderedImage,
)
from hub.ports.intake import (
    EndOfTransfer,
    Intake,
    ObjectStore,
    ReceivedObject,
    Reception,
    Sender,
    Source,
    Spool,
)
from hub.ports.jobs import (
    AFTER_COMMIT,
    Job,
    Jobs,
)
from hub.ports.knowledge import (
    CommitmentRequest,
    Expectation,
    ExpectationSource,
    Knowledge,
    NamedSeries,
    ProcedureStep,
    ReferencedInstance,
)
from hub.ports.models import (
    CallbackVerifier,
    ModelAdapter,
    ModelPackage,
    Resuming,
    Retrieval,
    VendorDoor,
)
from hub.ports.orders import (
    HealthRecord,
    OrderedRequest,
    Orders,
    PlacedOrder,
    ReportBundle,
    ReportQuery,
    Reports,
    Taken,
)
from hub.ports.process import (
    Buffer,
    Clock,
    Health,
    HealthState,
    at_first_call,
    importing,
)

__all__ = [
    "AFTER_COMMIT",
    "AdapterContext",
    "AdapterKind",
    "Archive",
    "ArchiveContext",
    "Buffer",
    "CallbackVerifier",
    "Clock",
    "CommitmentReport",
    "CommitmentRequest",
    "Confirmations",
    "Confirming",
    "Connector",
    "Destination",
    "DestinationContext",
    "EndOfTransfer",
    "Expectation",
    "ExpectationSource",
    "Health",
    "HealthRecord",
    "HealthState",
    "Holdings",
    "HttpEndpoint",
    "ImageRenderer",
    "Intake",
    "Job",
    "Jobs",
    "Knowledge",
    "ModelAdapter",
    "ModelPackage",
    "NamedSeries",
    "ObjectStore",
    "OrderedRequest",
    "Orders",
    "PlacedOrder",
    "ProcedureStep",
    "ReceivedObject",
    "Reception",
    "RecordContext",
    "ReferencedInstance",
    "Refuse",
    "RemoteSeries",
    "RemoteStudy",
    "RenderedImage",
    "ReportBundle",
    "ReportQuery",
    "Reports",
    "Resuming",
    "Retrieval",
    "SendFiles",
    "SendTls",
    "Sender",
    "SentAs",
    "SentFile",
    "Source",
    "SourceContext",
    "Spool",
    "StudyQuery",
    "Taken",
    "VendorDoor",
    "at_first_call",
    "importing",
]
