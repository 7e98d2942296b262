"""What vendors are told about requests whose model the hub cannot read in this moment."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from hub.bootstrap import model_register
from hub.bootstrap.model_register import register_of
from hub.bootstrap.vendor_door import RetrievalTokens
from hub.bootstrap.vendor_requests import VendorRequests
from hub.domain.inference import ModelKey
from hub.errors import RejectedError, TransientError
from hub.store.package_store import OfferedFolder
from hub.store.results import RequestState
from tests.unit.test_registration import Site, site

__all__ = ["site"]

ID = "a" * 32


class Vendors(VendorRequests):
    """Every request is one of these, and waits for its answer."""

    asked: Any = None

    def _row(self, request_id: str) -> Any:  # the ledger of requests is not what is tested here
        assert request_id == ID
        return self.asked


def vendors_of(site: Site, model: ModelKey) -> Vendors:
    def no_jobs() -> Any:
        raise AssertionError("nothing is taken")

    vendors = Vendors(site.hub, no_jobs)
    vendors.asked = SimpleNamespace(request_id=ID, model=model, state=RequestState.WAITING)
    return vendors


def registered(site: Site) -> ModelKey:
    return site.registrar().register(OfferedFolder(site.package()))[0].model


def lose(site: Site, model: ModelKey) -> None:
    folder = site.hub.settings.data / "models" / model.sha256
    folder.chmod(0o700)
    (folder / "model.yaml").rename(folder / "away.yaml")


def test_an_answer_to_a_model_that_cannot_be_read_is_not_called_unsigned(site: Site) -> None:
    model = registered(site)
    vendors = vendors_of(site, model)
    with pytest.raises(RejectedError, match="signature"):  # nobody signs for a model of this kind
        vendors.take(vendors.request(ID), {}, b"{}")
    lose(site, model)
    with pytest.raises(TransientError, match="who signs"):
        vendors.take(vendors.request(ID), {}, b"{}")


def test_images_of_a_model_that_cannot_be_read_are_not_given_without_its_priors(
    site: Site,
) -> None:
    model = registered(site)
    vendors = vendors_of(site, model)
    lose(site, model)
    until = site.hub.clock.now() + timedelta(hours=1)
    token = RetrievalTokens(site.hub.settings.data).issued(ID, until)
    with pytest.raises(TransientError, match="which images"):
        vendors.images(ID, token)


def test_a_configured_package_that_comes_back_is_known_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_register, "_LOOK_SECONDS", 0.0)
    folder = site.package()
    entry = site.hub.settings.models[0].model_copy(update={"package": str(folder)})
    hub = replace(site.hub, settings=site.hub.settings.model_copy(update={"models": (entry,)}))
    register = register_of(hub)
    away = folder.with_name("away")
    shutil.move(folder, away)
    (listed,) = register.models()
    assert (listed.card, bool(listed.problem)) == (None, True)
    shutil.move(away, folder)
    (listed,) = register.models()
    assert (listed.card is not None, listed.problem) == (True, "")
    assert register.package(listed).key == listed.key
