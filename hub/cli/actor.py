"""Who sits at the command line, for the audit log; and the ledgers that they act on."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager

from hub.bootstrap.hub import Hub
from hub.domain.delivery import RetryPolicy
from hub.durable import JobQueue
from hub.store.delivery_ledger import DeliveryLedger
from hub.store.quarantine import Quarantine
from hub.store.report_ledger import ReportLedger
from hub.store.request_ledger import RequestLedger
from hub.store.retention import StudyKeeper
from hub.study_steps import Rerouting


def actor() -> str:
    """``user:<login name>``."""
    return f"user:{getpass.getuser()}"


@contextmanager
def job_queue(hub: Hub) -> Iterator[JobQueue]:
    """Puts jobs into the hub's transactions; a worker runs them."""
    jobs = JobQueue(hub.database.url)
    try:
        yield jobs
    finally:
        jobs.close()


@contextmanager
def delivery_ledger(hub: Hub) -> Iterator[DeliveryLedger]:
    """Deliveries, changed in the name of this user."""
    with job_queue(hub) as jobs:
        yield DeliveryLedger(hub.database, jobs, hub.journal(actor()))


@contextmanager
def request_ledger(hub: Hub) -> Iterator[RequestLedger]:
    """Requests, changed in the name of this user."""
    with job_queue(hub) as jobs:
        yield RequestLedger(hub.database, jobs, hub.journal(actor()), RetryPolicy())


@contextmanager
def report_ledger(hub: Hub) -> Iterator[ReportLedger]:
    """Reports, decided on in the name of this user."""
    with job_queue(hub) as jobs:
        yield ReportLedger(hub.database, jobs, hub.journal(actor()))


@contextmanager
def quarantine(hub: Hub) -> Iterator[Quarantine]:
    """What is in quarantine, decided on in the name of this user."""
    with job_queue(hub) as jobs:
        yield Quarantine(hub.database, hub.documents, jobs, hub.journal(actor()))


@contextmanager
def rerouting(hub: Hub) -> Iterator[Rerouting]:
    """Applies the routes again, in the name of this user."""
    with job_queue(hub) as jobs:
        yield Rerouting(hub.database, jobs, hub.journal(actor()))


def study_keeper(hub: Hub) -> StudyKeeper:
    """Deletes and holds studies, in the name of this user."""
    return StudyKeeper(hub.database, hub.documents, hub.journal(actor()))
