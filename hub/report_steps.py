"""Step 6 of the path of a study (hub.pipeline): the documents of one version of a report, and the
start of their way to every destination.

Documents are made for each set of DICOM documents that destinations get, so that nothing refers
to an object that its receiver has not got.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import sqlalchemy as sa

from hub.domain.delivery import DICOM_KINDS, Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult, Priority, Timing
from hub.domain.model_card import ModelCard
from hub.domain.report import PreviousDocument, ReportVersion
from hub.formats.encoding import SAME_FOR_ALL, Encoder, EncodingContext
from hub.ports import Clock, at_first_call
from hub.registry import Registry
from hub.store import results
from hub.store.delivery_ledger import DeliveryLedger
from hub.store.documents import DocumentStore
from hub.store.journal import Journal
from hub.store.results import FiledDocument, RequestRow

CARRY_A_PDF = frozenset(
    {
        DocumentKind.ENCAPSULATED_PDF,
        DocumentKind.FHIR,
        DocumentKind.FHIR_R5,
        DocumentKind.ORU,
    }
)

SHOWN = ""
"""Stands for a destination: those who read reports from the hub itself, as FHIR."""

_check_documents = at_first_call("hub.formats.invariants:check_documents")
_resources_of = at_first_call("hub.formats.fhir.bundle_view:resources_of")

Kinds = frozenset[DocumentKind]
Predecessors = Callable[[tuple[str, ...]], tuple[PreviousDocument, ...]]
"""What these destinations got of the report that is replaced, as DICOM objects."""


def delivery_queue(concurrency: int) -> str:
    """Destinations with the same limit share a queue; each is a line of its own in it."""
    return f"delivery-{concurrency}"


@dataclass(frozen=True, slots=True)
class Made:
    """The documents of one version of a report, and who gets which."""

    documents: Mapping[str, Document]
    """By ``document_id``, in the order in which they were made."""
    profiles: Mapping[str, str]
    """``document_id`` -> the DICOM documents that the same destinations get."""
    by_destination: Mapping[str, tuple[Document, ...]]
    """In the order in which they are to be sent."""
    timings: tuple[Timing, ...]


@dataclass(frozen=True, slots=True)
class _Group:
    """Destinations that get the same DICOM documents."""

    dicom: Kinds
    destinations: Mapping[str, Kinds]

    @property
    def profile(self) -> str:
        return "+".join(sorted(self.dicom))

    @property
    def kinds(self) -> Kinds:
        wanted = frozenset().union(*self.destinations.values())
        return wanted | {DocumentKind.PDF} if wanted & CARRY_A_PDF else wanted


def groups_of(destinations: Mapping[str, Iterable[DocumentKind]]) -> list[_Group]:
    """The destinations by the DICOM documents that they get. Those that get none join those that
    get most, whose objects their documents name."""
    by_set: dict[Kinds, dict[str, Kinds]] = {}
    for name, kinds in destinations.items():
        wanted = frozenset(kinds)
        by_set.setdefault(wanted & DICOM_KINDS, {})[name] = wanted
    richest = max(by_set, key=lambda kinds: (len(kinds), sorted(kinds)), default=frozenset())
    without = by_set.pop(frozenset(), {})
    if without:
        by_set.setdefault(richest, {}).update(without)
    return [_Group(dicom, members) for dicom, members in by_set.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentMaker:
    """Encodes results; keeps and sends nothing."""

    encoders: Mapping[DocumentKind, Encoder]
    """In the order in which documents may refer to each other."""
    context: Callable[[], EncodingContext]
    clock: Clock

    def make(
        self,
        request: InferenceRequest,
        result: InferenceResult,
        card: ModelCard,
        version: ReportVersion,
        *,
        destinations: Mapping[str, Iterable[DocumentKind]],
        earlier: Mapping[DocumentKind, Document] | None = None,
        made_at: datetime | None = None,
        predecessors: Predecessors | None = None,
    ) -> Made:
        """Encode a result for destinations, each with the kinds of document that it gets.

        ``earlier``: documents of the first version that are not made again. ``made_at``: when this
        version was made, where it was asked for before; the same each time it is encoded.

        Raises:
            IntegrityError: the result does not belong to its request, or cannot be valid.
            RejectedError: it cannot be expressed.
        """
        making = _Making(self, request, result, card, version, earlier or {}, predecessors)
        context = self.context()
        if made_at is not None:
            context = replace(context, made_at=made_at)
        for group in groups_of(destinations):
            making.encode(group, context)
        return Made(making.documents, making.profiles, making.sent, tuple(making.timings))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMaker(DocumentMaker):
    """Makes the documents of a version; keeps and sends them."""

    documents: DocumentStore
    deliveries: DeliveryLedger
    registry: Registry
    journal: Journal
    shows_reports: bool = False
    """A source serves reports: each version is made as FHIR, also where no destination gets it."""

    def wanted(self, names: Iterable[str]) -> dict[str, tuple[DocumentKind, ...]]:
        """What each of these destinations gets; those that are not configured any more are left
        out."""
        known = self.registry.destinations
        return {name: known[name].documents for name in names if name in known}

    def store(self, made: Made, version: int) -> tuple[FiledDocument, ...]:
        """Keep the bytes durably; what is returned goes into the database.

        Raises:
            TransientError: no space left.
        """
        return tuple(
            FiledDocument(
                document, self.documents.put(document.content), version, made.profiles[uid]
            )
            for uid, document in made.documents.items()
        )

    def send(
        self,
        connection: sa.Connection,
        row: RequestRow,
        made: Made,
        filed: Iterable[FiledDocument],
        priority: Priority | None = None,
    ) -> None:
        """Put the documents on record and on their way, in the caller's transaction, which has
        locked the study's lines (`DeliveryLedger.lock`)."""
        filed = tuple(filed)
        results.add_documents(connection, filed)
        if self.shows_reports:
            self._show(connection, row, filed)
        for name, documents in made.by_destination.items():
            destination = self.registry.destination(name)
            self.deliveries.start(
                connection,
                row,
                documents,
                destination=name,
                queue=delivery_queue(destination.concurrency),
                priority=row.priority if priority is None else priority,
            )

    @staticmethod
    def _show(connection: sa.Connection, row: RequestRow, filed: Iterable[FiledDocument]) -> None:
        """Have the resources of a report found by their ids."""
        for one in filed:
            if one.document.kind is DocumentKind.FHIR:
                shown = _resources_of(one.document.content)
                results.add_fhir_resources(connection, row.request_id, shown)

    def alarm_missing(
        self, connection: sa.Connection, row: RequestRow, names: Iterable[str], version: int
    ) -> None:
        """A destination that was taken out of the configuration keeps nothing from the others,
        and somebody has to tell those who read there."""
        for name in names:
            self.journal.alarm(
                connection,
                "delivery.no-destination",
                f"request:{row.request_id}",
                row.study.study_instance_uid,
                reason=(
                    f"destination {name} is not configured any more; it does not get version"
                    f" {version} of the report"
                ),
            )


@dataclass(slots=True)
class _Making:
    """One version in the making."""

    maker: DocumentMaker
    request: InferenceRequest
    result: InferenceResult
    card: ModelCard
    version: ReportVersion
    earlier: Mapping[DocumentKind, Document]
    predecessors: Predecessors | None
    documents: dict[str, Document] = field(default_factory=dict)
    profiles: dict[str, str] = field(default_factory=dict)
    sent: dict[str, tuple[Document, ...]] = field(default_factory=dict)
    timings: list[Timing] = field(default_factory=list)

    def encode(self, group: _Group, context: EncodingContext) -> None:
        version = self.version
        if self.predecessors is not None:
            version = replace(version, predecessors=self.predecessors(tuple(group.destinations)))
        context = replace(context, report=version, profile=group.profile)
        kinds = group.kinds
        related = {kind: one for kind, one in self.earlier.items() if kind in kinds}
        made: dict[DocumentKind, Document] = {}
        for kind in (k for k in self.maker.encoders if k in kinds):
            document = self._encoded(kind, context, related | made)
            if document is not None:
                made[kind] = document
                self.documents.setdefault(document.document_id, document)
                self.profiles.setdefault(document.document_id, group.profile)
        self._check(made.values(), version)
        for name, wanted in group.destinations.items():
            if name == SHOWN:
                continue
            self.sent[name] = tuple(one for kind, one in made.items() if kind in wanted)

    def _check(self, made: Iterable[Document], version: ReportVersion) -> None:
        """The last look at the bytes: whose they are, and what they refer to."""
        known = {one.document_id for one in self.earlier.values()}
        known.update(one.sop_instance_uid for one in version.predecessors)
        _check_documents(self.request, made, known)

    def _encoded(
        self,
        kind: DocumentKind,
        context: EncodingContext,
        related: Mapping[DocumentKind, Document],
    ) -> Document | None:
        """What no other document is named in is the same for every group: made once."""
        same = (d for d in self.documents.values() if d.kind is kind and kind in SAME_FOR_ALL)
        known = next(same, None)
        if known is not None:
            return known
        if kind in DICOM_KINDS and self.request.study.is_case:
            return None  # there are no images that it could refer to
        begun = self.maker.clock.now()
        document = self.maker.encoders[kind](self.request, self.result, self.card, context, related)
        seconds = (self.maker.clock.now() - begun).total_seconds()
        self.timings.append(Timing(f"encode {kind}", seconds))
        return document
