"""What a deletion must not take with it, and what is forgotten beside studies."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from hub.domain.process import ProcessIdentity
from hub.errors import RejectedError
from hub.formats.images.ct_phantom import chest_phantom
from hub.ports import (
    CommitmentReport,
    CommitmentRequest,
    EndOfTransfer,
    Expectation,
    ExpectationSource,
    ProcedureStep,
)
from hub.store import workers
from hub.store.index_batch import Round
from hub.store.knowledge import StoreKnowledge
from hub.store.schema import (
    association_studies,
    associations,
    commitment_reports,
    expectations,
    procedure_steps,
    segments,
    storage_commitments,
)
from hub.store.schema import instances as instances_table
from hub.store.segments.log_reader import Portion
from tests.unit.store.test_retention import DAY, Site, site
from tests.unit.test_pipeline import SENDER, as_received

__all__ = ["site"]


# --- while the indexer works -----------------------------------------------------------------


def test_what_is_sent_again_while_it_is_deleted_is_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL has several writers at once: what the indexer found to be there already must
    still be there when it says so."""
    if site.bench.pipeline.database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    uid, judged, ends = site.study(), Round._judged, list[object]()
    file = chest_phantom(slices=2, rows=64, columns=64, seed=1).files[0]

    def purge() -> None:
        try:
            ends.append(site.keeper.purge_by_hand(uid, "asked for", force=False))
        except RejectedError as error:
            ends.append(error)

    deleting = threading.Thread(target=purge)

    def delete_now(work: Round, portions: Sequence[Portion]) -> list[Any]:
        found = judged(work, portions)
        deleting.start()
        deleting.join(0.3)
        return found

    reception = site.bench.store.open(SENDER)
    reception.store(as_received(file))
    with monkeypatch.context() as patched:
        patched.setattr(Round, "_judged", delete_now)
        site.bench.store.indexer.run_once(0.0)
    deleting.join()
    assert isinstance(ends[0], RejectedError)
    assert site.held() == [uid]
    reception.close(EndOfTransfer.RELEASED)


def test_a_conflict_in_another_study_does_not_outlive_the_image_it_was_with(site: Site) -> None:
    uid = site.study()
    stray = as_received(chest_phantom(slices=2, rows=64, columns=64, seed=1).files[0])
    other = bytes(stray.data_set).replace(uid.encode(), uid.encode()[:-1] + b"7")
    site.bench.store.store([replace(stray, data_set=other)])
    assert min(map(str, site.bench.column(instances_table.c.state))) == "conflict"
    site.keeper.purge_by_hand(uid, "asked for", force=True)
    site.study()
    with site.bench.pipeline.database.read() as connection:
        of_study = instances_table.c.study_instance_uid == uid
        states = connection.execute(sa.select(instances_table.c.state).where(of_study)).scalars()
        assert set(states) == {"current"}


def _only_conflicts(site: Site) -> str:
    """A study of which the one image is another's, with other bytes; returns its UID."""
    uid = site.study()
    stray = as_received(chest_phantom(slices=2, rows=64, columns=64, seed=1).files[0])
    other = uid[:-1] + ("7" if uid[-1] != "7" else "8")
    data_set = bytes(stray.data_set).replace(uid.encode(), other.encode())
    site.bench.store.store([replace(stray, data_set=data_set)])
    assert set(site.held()) == {uid, other}
    return other


def test_a_study_of_conflicts_alone_is_deleted_by_hand(site: Site) -> None:
    other = _only_conflicts(site)
    purged = site.keeper.purge_by_hand(other, "asked for", force=False)
    assert (purged.instances, purged.segments) == (1, 1)
    assert other not in site.held()
    assert site.erase() == 1
    for uid in ("", "1.2.3.4.5"):
        with pytest.raises(RejectedError, match="has arrived"):
            site.keeper.purge_by_hand(uid, "asked for", force=True)


def test_a_study_of_conflicts_alone_is_not_deleted_while_it_is_written_to(site: Site) -> None:
    other = _only_conflicts(site)
    site.set(segments, state="open")
    with pytest.raises(RejectedError, match="a transfer still writes to it"):
        site.keeper.purge_by_hand(other, "asked for", force=True)


def test_a_study_of_conflicts_alone_goes_in_its_time(site: Site) -> None:
    other = _only_conflicts(site)
    site.bench.clock.advance(9 * DAY)
    site.housekeeper().turn()
    assert other in site.held()
    site.bench.clock.advance(2 * DAY)
    site.housekeeper().turn()
    assert other not in site.held()


def test_transfers_of_which_nothing_is_left_are_forgotten(site: Site) -> None:
    kept, gone = site.study(1), site.study(2)
    site.study(2)  # duplicates only
    while site.erase():
        pass
    site.bench.clock.advance(5 * DAY)
    site.keeper.purge_by_hand(gone, "asked for", force=True)
    while site.erase():
        pass
    site.bench.clock.advance(20 * DAY)
    late = site.study(2)
    site.keeper.hold(kept, "court")
    site.keeper.hold(late, "court")
    site.bench.clock.advance(10 * DAY)
    with site.bench.pipeline.database.write() as connection:  # as of a version without segments
        connection.execute(sa.delete(segments).where(segments.c.study_instance_uid == kept))
    site.housekeeper().turn()
    column = site.bench.column
    assert sorted(map(str, column(association_studies.c.study_instance_uid))) == sorted(
        [kept, late]
    )
    assert set(column(associations.c.association_id)) == set(
        column(instances_table.c.association_id)
    )


def test_a_process_that_was_killed_is_forgotten_too(site: Site) -> None:
    clock, database = site.bench.clock, site.bench.pipeline.database
    process = ProcessIdentity("killed", "boot", 1, "1")
    with database.write() as connection:
        workers.register(connection, process, "receiver", clock.now())
    clock.advance(31 * DAY)
    site.housekeeper().turn()
    with database.read() as connection:
        assert not workers.present(connection, "receiver")


def test_what_was_said_of_studies_long_ago_is_forgotten(site: Site) -> None:
    clock, database = site.bench.clock, site.bench.pipeline.database
    knowledge = StoreKnowledge(database, site.bench.store.objects, clock)

    def say(study: str, state: str) -> None:
        source = ExpectationSource.AVAILABILITY_NOTIFICATION
        knowledge.expect(Expectation(study, source, sop_instance_uids=(f"{study}.1",)))
        knowledge.keep_procedure_step(ProcedureStep(f"{study}.2", study, "IN PROGRESS", ()))
        asked = CommitmentRequest(f"{study}.3", "SCANNER", "dicom", ())
        knowledge.keep_commitment(asked)
        if state == "reported":
            knowledge.commitment_reported(asked, 0)

    say("1.2.1", "reported")
    say("1.2.2", "asked")
    clock.advance(31 * DAY)
    say("1.2.3", "reported")
    site.housekeeper().turn()
    column = site.bench.column
    assert column(expectations.c.study_instance_uid) == ["1.2.3"]
    assert column(procedure_steps.c.study_instance_uid) == ["1.2.3"]
    assert sorted(column(storage_commitments.c.transaction_uid)) == ["1.2.2.3", "1.2.3.3"]


def test_reports_of_archives_that_nobody_waits_for_are_forgotten(site: Site) -> None:
    clock, database = site.bench.clock, site.bench.pipeline.database
    knowledge = StoreKnowledge(database, site.bench.store.objects, clock)
    knowledge.commitment_answered(CommitmentReport("1.2.1", ("1.2.1.1",)))
    clock.advance(7200)
    knowledge.commitment_answered(CommitmentReport("1.2.2", ("1.2.2.1",)))
    site.housekeeper().turn()
    assert site.bench.column(commitment_reports.c.transaction_uid) == ["1.2.2"]
