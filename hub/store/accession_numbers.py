"""Accession numbers: which study has which, and whether another patient's has the same one."""

from __future__ import annotations

import sqlalchemy as sa

from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.store.instances import first_patient
from hub.store.patients import current_identity
from hub.store.schema import studies

_LONGEST = 64


def note(
    connection: sa.Connection, study_instance_uid: str, accession_number: str, issuer: str
) -> None:
    """Keep the number of a study that has none yet: the first one that an image names. One that is
    longer than DICOM lets it be (16 characters) belongs to no order."""
    if max(len(accession_number), len(issuer)) > _LONGEST:
        return
    connection.execute(
        sa.update(studies)
        .where(
            studies.c.study_instance_uid == study_instance_uid,
            studies.c.accession_number == "",
        )
        .values(accession_number=accession_number, issuer_of_accession_number=issuer)
    )


def is_shared_with_another_patient(connection: sa.Connection, identity: StudyIdentity) -> bool:
    """Whether a study of another patient has the accession number of this one, of the same issuer.

    Both patients count as they are now: the studies of two records that were merged may share a
    number. No number is shared by nobody.
    """
    if not identity.accession_number:
        return False
    query = sa.select(
        studies.c.study_instance_uid, studies.c.patient_id, studies.c.issuer_of_patient_id
    ).where(
        studies.c.accession_number == identity.accession_number,
        studies.c.issuer_of_accession_number == identity.issuer_of_accession_number,
        studies.c.study_instance_uid != identity.study_instance_uid,
    )
    others = connection.execute(query).all()
    if not others:
        return False
    patient = current_identity(connection, identity.patient)
    # Of a patient with an ID one study is enough: a test patient may have thousands.
    each = {(name, issuer, "" if name else uid): uid for uid, name, issuer in others}
    return any(
        _is_another(connection, patient, PatientIdentity(name, issuer), uid)
        for (name, issuer, _), uid in each.items()
    )


def _is_another(
    connection: sa.Connection,
    patient: PatientIdentity,
    other: PatientIdentity,
    study_instance_uid: str,
) -> bool:
    if other.patient_id or patient.patient_id:
        return current_identity(connection, other).key != patient.key
    # without IDs two patients are told apart by what else is known of them
    known = first_patient(connection, study_instance_uid)
    pairs = (
        ()
        if known is None
        else (
            (known.patient_name.casefold(), patient.patient_name.casefold()),
            (known.patient_birth_date, patient.patient_birth_date),
        )
    )
    return any(a and b and a != b for a, b in pairs)
