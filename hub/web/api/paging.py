"""Lists in parts."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict

from hub.store.overview import Page

Entry = TypeVar("Entry")

Limit = Annotated[int, Query(ge=1, le=500, description="Entries per page.")]
Offset = Annotated[int, Query(ge=0, description="Entries to skip.")]


class PageOf(BaseModel, Generic[Entry]):
    """A part of a list, newest first."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    items: list[Entry]
    total: int
    """Length of the whole list."""
    next: str | None
    """Where the next page is; null on the last one."""


def page_of(request: Request, page: Page[Entry], limit: int, offset: int) -> PageOf[Entry]:
    """A page with the address of the next one."""
    after = offset + limit
    following = None
    if after < page.total:
        following = str(request.url.include_query_params(limit=limit, offset=after))
    return PageOf(items=list(page.items), total=page.total, next=following)
