"""The smallest Storage SCP that pynetdicom makes: each object goes to a file of its own as it is.

``python -m tests.bench.intake_pynetdicom PORT FOLDER``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification


def main(port: int, folder: Path) -> None:
    """Serve until killed."""

    def store(event: evt.Event) -> int:
        name = str(event.request.AffectedSOPInstanceUID)
        (folder / name).write_bytes(event.encoded_dataset())
        return 0x0000

    entity = AE("CAIDX")
    entity.maximum_associations = 32
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    entity.add_supported_context(Verification)
    entity.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
