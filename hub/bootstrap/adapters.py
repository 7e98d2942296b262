"""Model adapters: which one runs what, each built when its first model comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Lock

from hub.bootstrap.hub import Hub
from hub.bootstrap.vendor_door import RetrievalTokens, SignedDoor
from hub.errors import ConfigError, ConfigProblem
from hub.ports import AdapterContext, ModelAdapter

_USUAL = {"onnx": "onnx_local"}
"""Of several adapters for a `runtime.kind`, the one that the hub brings itself."""


def adapter_context(hub: Hub, kind: str) -> AdapterContext:
    """What an adapter of a kind gets from the hub."""
    return AdapterContext(
        name=kind,
        objects=hub.objects,
        clock=hub.clock,
        door=SignedDoor(hub.settings.web.url, RetrievalTokens(hub.settings.data)),
        private_networks=hub.settings.outbound.private_networks,
    )


class Adapters(Mapping[str, ModelAdapter]):
    """Adapters by kind. Asking for one builds it; going through all shows those that were built."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._built: dict[str, ModelAdapter] = {}
        self._lock = Lock()

    def __getitem__(self, kind: str) -> ModelAdapter:
        """Raises:
        KeyError: it is not installed, or needs a configuration that it has not got.
        """
        with self._lock:
            if kind not in self._built:
                options = self._hub.settings.adapters[kind]
                build = self._hub.components.adapters[kind].build
                self._built[kind] = build(options, adapter_context(self._hub, kind))
            return self._built[kind]

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._built))

    def __len__(self) -> int:
        with self._lock:
            return len(self._built)


def adapter_kind(hub: Hub, runtime_kind: str, chosen: str | None, manifest: str) -> str:
    """The kind of adapter that runs a model.

    Args:
        hub: its settings and what is installed.
        runtime_kind: of the manifest.
        chosen: by the configuration, for this model.
        manifest: its name, for messages.

    Raises:
        ConfigError: there is none, or one that runs something else was chosen, or several could.
    """
    installed, ready = hub.components.adapters, hub.settings.adapters
    kind = chosen or hub.settings.registration.adapters.get(runtime_kind)
    if kind is not None:
        offered = installed[kind].runtime_kind
        if offered != runtime_kind:
            message = f"adapter {kind} runs {offered} models, this one is {runtime_kind}"
            raise _problem(manifest, message)
        return kind
    able = [name for name, one in installed.items() if one.runtime_kind == runtime_kind]
    found = [name for name in able if name in ready]
    if len(found) > 1:
        found = [name for name in found if name == _USUAL.get(runtime_kind, runtime_kind)] or found
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(found)
        message = f"{listed} run {runtime_kind} models: choose one (registration.adapters)"
    elif able:
        message = f"adapter {', '.join(able)} has to be configured first (adapters.{able[0]})"
    else:
        message = f"no adapter that runs {runtime_kind} models is installed"
    raise _problem(manifest, message)


def _problem(manifest: str, message: str) -> ConfigError:
    return ConfigError((ConfigProblem(manifest, 0, "runtime.kind", message),))
