"""Entries of a FHIR transaction, each of which may be sent again and again (R4 http,
"Transaction"): what exists is created only where it is missing, what changes is updated by its
identifier, and what has no identifier has an id of its own."""

from __future__ import annotations

from hub.formats.fhir.resources import Json, conditional, urn


def create(url: str, resource: Json) -> Json:
    """Create it unless a resource with its first identifier exists."""
    method = {
        "method": "POST",
        "url": resource["resourceType"],
        "ifNoneExist": conditional(resource["identifier"][0]),
    }
    return {"fullUrl": url, "resource": resource, "request": method}


def update(url: str, resource: Json) -> Json:
    """Update the resource with its first identifier, or create it."""
    search = conditional(resource["identifier"][0])
    method = {"method": "PUT", "url": f"{resource['resourceType']}?{search}"}
    return {"fullUrl": url, "resource": resource, "request": method}


def put(resource: Json) -> Json:
    """Put it at the id that it has: Provenance cannot be found by an identifier in R4."""
    method = {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"}
    return {"fullUrl": urn(resource["id"]), "resource": resource, "request": method}
