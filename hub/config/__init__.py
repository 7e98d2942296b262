"""The hub's settings: one YAML 1.2 file, frozen, every field with a working default.

Nothing unknown is accepted, and every mistake is reported at once with file, line and field.
A secret is written as a reference, ``env:NAME`` or ``file:/path``, and read when the file is
loaded. Relative paths are relative to the working directory of the process.

The sections of connectors and model adapters are validated by their own configuration classes,
which the caller brings (``Components``): this package knows none of them.
"""

from __future__ import annotations

from hub.config.cross_checks import model_id_of
from hub.config.file_model import Components
from hub.config.loading import (
    DEFAULT_FILE,
    default_settings,
    load_settings,
    read_settings,
    settings_schema,
)
from hub.config.settings import (
    BUILTIN,
    CONFIG_VARIABLE,
    DEFAULTS_FILE,
    ArchiveSettings,
    CompletenessSettings,
    DatabaseSettings,
    DeliverySettings,
    DestinationSettings,
    IdentifierSettings,
    LogSettings,
    ModelSettings,
    PriorsSettings,
    RouteSettings,
    Settings,
    SiteSettings,
    SourceSettings,
    WorkerSettings,
)
from hub.config.web_settings import WebSettings

__all__ = [
    "BUILTIN",
    "CONFIG_VARIABLE",
    "DEFAULTS_FILE",
    "DEFAULT_FILE",
    "ArchiveSettings",
    "CompletenessSettings",
    "Components",
    "DatabaseSettings",
    "DeliverySettings",
    "DestinationSettings",
    "IdentifierSettings",
    "LogSettings",
    "ModelSettings",
    "PriorsSettings",
    "RouteSettings",
    "Settings",
    "SiteSettings",
    "SourceSettings",
    "WebSettings",
    "WorkerSettings",
    "default_settings",
    "load_settings",
    "model_id_of",
    "read_settings",
    "settings_schema",
]
