"""Models that run at their vendors: an HTTPS service that speaks the hub's contract as JSON
(docs/contract), and a manifest."""

from hub.ports import AdapterKind, at_first_call
from model_adapters.vendor_http.config import VendorHttpConfig

ADAPTER = AdapterKind(
    runtime_kind="vendor_http",
    config=VendorHttpConfig,
    build=at_first_call("model_adapters.vendor_http.adapter:VendorHttpAdapter"),
    callbacks=at_first_call("model_adapters.vendor_http.callbacks:Callbacks"),
    check=at_first_call("model_adapters.vendor_http.adapter:check"),
)
