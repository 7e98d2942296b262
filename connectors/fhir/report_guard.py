"""Nobody's change of a report is overwritten unseen.

Before a transaction replaces a report, the one that is there is read, and the update is bound to
its version (R4 http, "Managing Resource Contention"). Whoever made it final on the server keeps
it: a report counts as changed there when its status is none that we gave it, which a tag of ours
repeats (R4 Resource, ``meta.tag``; an update may add to the tags that are there).
"""

from __future__ import annotations

import re
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hub.errors import RejectedError, TransientError

Json = dict[str, Any]

STATUS_SYSTEM = "urn:caidx:report-status"
"""System of the tag that says which status the hub gave to a report."""

_REPORT = "DiagnosticReport"
_CONDITIONAL = f"{_REPORT}?"
_ENTERED_IN_ERROR = "entered-in-error"
_FINISHED = frozenset({"final", "amended", "corrected", "appended", "cancelled", _ENTERED_IN_ERROR})
_ID = re.compile(r"(?!\.+$)[A-Za-z0-9.-]{1,64}")
"""R4 datatypes, ``id``; and no step up in a path."""


@dataclass(frozen=True, slots=True)
class HeldReport:
    """A report as the server has it."""

    report_id: str
    """Empty where it has none that can be referred to, as ``version_id``."""
    version_id: str
    status: str
    issued: str
    own_statuses: frozenset[str]
    """Those that we gave it: the last one, or all where the server keeps old tags; empty where
    our tag is gone."""

    @property
    def is_finished_by_others(self) -> bool:
        """Somebody on the server made it final, changed what was, or withdrew it."""
        return self.status in _FINISHED and self.status not in self.own_statuses


def report_entry(bundle: Json) -> Json | None:
    """The entry that updates a report by its identifier; None: there is none."""
    for entry in bundle["entry"]:
        request = entry["request"]
        if request["method"] == "PUT" and str(request["url"]).startswith(_CONDITIONAL):
            found: Json = entry
            return found
    return None


def held_report(searchset: object) -> HeldReport | None:
    """The report that a search for our identifier found; None: there is none yet.

    Raises:
        TransientError: it is no answer to a search.
        RejectedError: there are several, which a person has to merge.
    """
    if not isinstance(searchset, dict) or searchset.get("type") != "searchset":
        raise TransientError("the answer to the search for the report is no searchset Bundle")
    entries = searchset.get("entry", [])
    if not isinstance(entries, list):
        raise TransientError("the answer to the search for the report is no searchset Bundle")
    resources = [one.get("resource") for one in entries if isinstance(one, dict)]
    reports = [r for r in resources if isinstance(r, dict) and r.get("resourceType") == _REPORT]
    if not reports:
        return None
    if len(reports) > 1:
        raise RejectedError("the server holds duplicates of the report: a person has to merge them")
    return _held(reports[0])


def _held(report: Json) -> HeldReport:
    meta = report.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    listed = meta.get("tag")
    tags = [tag for tag in listed if isinstance(tag, dict)] if isinstance(listed, list) else []
    own = (str(tag.get("code", "")) for tag in tags if tag.get("system") == STATUS_SYSTEM)
    return HeldReport(
        report_id=_id_in(report.get("id")),
        version_id=_id_in(meta.get("versionId")),
        status=str(report.get("status", "")),
        issued=str(report.get("issued", "")),
        own_statuses=frozenset(own),
    )


def _id_in(value: object) -> str:
    return value if isinstance(value, str) and _ID.fullmatch(value) else ""


def guarded(bundle: Json, held: HeldReport | None) -> Json:
    """The transaction, its report tagged, and its update bound to what the server has.

    Raises:
        RejectedError: a person made the report final there, and nobody answers for ours.
    """
    entry = report_entry(bundle)
    if entry is None:
        return bundle
    ours = entry["resource"]
    if held is not None and held.is_finished_by_others and not _somebody_answers_for(ours):
        raise RejectedError(
            f"{_REPORT}/{held.report_id} was made {held.status!r} on the server by somebody else: "
            f"an unverified report (status {ours['status']!r}) does not replace it"
        )
    bound = {**entry, "resource": _tagged(ours), "request": copy(entry["request"])}
    if held is not None and held.report_id and held.version_id:
        bound["resource"]["id"] = held.report_id
        bound["request"]["url"] = f"{_REPORT}/{held.report_id}"
        bound["request"]["ifMatch"] = f'W/"{held.version_id}"'
    entries = [bound if one is entry else one for one in bundle["entry"]]
    return {**bundle, "entry": entries}


def _somebody_answers_for(report: Json) -> bool:
    """A person verified it, or withdrew it."""
    return bool(report.get("resultsInterpreter")) or report["status"] == _ENTERED_IN_ERROR


def _tagged(report: Json) -> Json:
    meta = report.get("meta", {})
    tag = {"system": STATUS_SYSTEM, "code": report["status"]}
    return {**report, "meta": {**meta, "tag": [*meta.get("tag", ()), tag]}}


def is_kept(held: HeldReport | None, report: Json) -> bool:
    """Whether the server has this report, or one that was issued later."""
    if held is None:
        return False
    try:
        return datetime.fromisoformat(held.issued) >= datetime.fromisoformat(report["issued"])
    except (ValueError, TypeError):
        return False
