"""DICOM over TLS, in both directions, with DCMTK, pynetdicom and Orthanc."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pynetdicom import AE, evt

from connectors.dicom.archive import build_archive
from connectors.dicom.archive_config import DicomArchiveConfig
from connectors.dicom.config import (
    DicomDestinationConfig,
    DicomSourceConfig,
)
from connectors.dicom.destination import DicomDestination, build_destination
from connectors.dicom.sender import send_files
from connectors.dicom.source import DicomSource
from hub.cli.app import run
from hub.errors import ConfigError, TransientError
from hub.formats.dicom.header import split_part10
from hub.ports import ArchiveContext, DestinationContext, EndOfTransfer, SendTls, SentAs
from hub.transport.tls import client_context, server_context
from hub.transport.tls_config import TlsClientConfig, TlsServerConfig
from tests.contracts.recording import (
    ENCAPSULATED_PDF,
    STUDY,
    RecordingIntake,
    document,
    eventually,
    write_files,
)
from tests.fakes import FrozenClock, NoConfirmations
from tests.peers import dcmtk, find_tool, free_port
from tests.peers.certificates import Authority, Identity
from tests.peers.orthanc import Orthanc
from tests.peers.requestor import Requestor, associate_request, closed_within

pytestmark = pytest.mark.peers


@dataclass(frozen=True)
class Keys:
    authority: Authority
    hub: Identity
    peer: Identity
    expired: Identity
    stranger: Identity
    """Signed by another authority."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    return Keys(
        authority,
        hub=authority.issue("hub"),
        peer=authority.issue("peer"),
        expired=authority.issue("expired", expired=True),
        stranger=Authority(folder, "other").issue("stranger"),
    )


def tls_server(keys: Keys, **settings: Any) -> TlsServerConfig:
    return TlsServerConfig(
        certificate=keys.hub.certificate,
        private_key=keys.hub.private_key,
        trusted=keys.authority.certificate,
        **settings,
    )


def tls_client(keys: Keys, identity: Identity | None = None, **settings: Any) -> TlsClientConfig:
    return TlsClientConfig(
        trusted=keys.authority.certificate,
        certificate=None if identity is None else identity.certificate,
        private_key=None if identity is None else identity.private_key,
        **settings,
    )


@contextmanager
def listening(intake: RecordingIntake, tls: TlsServerConfig | None, **more: Any) -> Iterator[int]:
    port = free_port()
    config = DicomSourceConfig(port=port, stop_grace=0.5, tls=tls, services=(), **more)
    source = DicomSource(config, intake.context())
    source.start()
    try:
        yield port
    finally:
        source.stop()


def dcmtk_tls(keys: Keys, identity: Identity, profile: str = "+py") -> list[str]:
    files = ["+tls", str(identity.private_key), str(identity.certificate)]
    return [*files, "+cf", str(keys.authority.certificate), profile]


@pytest.fixture
def intake() -> RecordingIntake:
    return RecordingIntake()


# --- the source -----------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_dcmtk_sends_by_every_bcp_195_profile(
    intake: RecordingIntake, keys: Keys, shared_data: Path, profile: str
) -> None:
    folder = shared_data / "dicom" / "ct-head-ge-tilt"
    paths = sorted(folder.glob("*.dcm"))
    options = dcmtk_tls(keys, keys.peer, profile)
    with listening(intake, tls_server(keys)) as port:
        dcmtk.echoscu(port, options=options)
        dcmtk.storescu(paths, port, options=options)
        eventually(lambda: intake.ends == [EndOfTransfer.RELEASED])
    sent = sorted(split_part10(path.read_bytes())[1] for path in paths)
    assert sorted(item.data_set for item in intake.stored) == sent


@pytest.mark.parametrize(("version", "minimum"), [("1.2", "1.2"), ("1.3", "1.2"), ("1.3", "1.3")])
def test_pynetdicom_and_our_sender_are_served_by_both_versions(
    intake: RecordingIntake, keys: Keys, tmp_path: Path, version: str, minimum: str
) -> None:
    paths = write_files(tmp_path, ["1.2.1", "1.2.2"])
    with listening(intake, tls_server(keys, minimum=minimum)) as port:
        context = client_context(tls_client(keys, keys.peer))
        context.maximum_version = {
            "1.2": ssl.TLSVersion.TLSv1_2,
            "1.3": ssl.TLSVersion.TLSv1_3,
        }[version]
        ae = AE("SENDER")
        ae.add_requested_context(ENCAPSULATED_PDF, ["1.2.840.10008.1.2.1"])
        association = ae.associate("127.0.0.1", port, tls_args=(context, "127.0.0.1"))
        assert association.is_established
        assert [association.send_c_store(path).Status for path in paths] == [0, 0]
        association.release()
        answers = send_files(
            paths,
            host="127.0.0.1",
            port=port,
            called_ae_title="CAIDX",
            calling_ae_title="S",
            tls=SendTls(
                trusted=keys.authority.certificate,
                certificate=keys.peer.certificate,
                private_key=keys.peer.private_key,
            ),
        )
        assert [answer.sent_as for answer in answers] == [SentAs.STORED] * 2
    sent = [split_part10(path.read_bytes())[1] for path in paths]
    assert [item.data_set for item in intake.stored] == sent * 2


def test_caidx_send_connects_by_tls(
    intake: RecordingIntake, keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = write_files(tmp_path, ["1.2.1"])

    def send(*options: str) -> tuple[int, str]:
        status = run(["send", str(path), "--to", f"CAIDX@{host}:{port}", *options])
        return status, capsys.readouterr().err

    trusted = ["--tls-trusted", str(keys.authority.certificate)]
    peer = keys.peer
    ours = ["--tls-certificate", str(peer.certificate), "--tls-private-key", str(peer.private_key)]
    host = "127.0.0.1"
    with listening(intake, tls_server(keys)) as port:
        assert send(*trusted, *ours)[0] == 0
        assert [bytes(item.data_set) for item in intake.stored] == [
            split_part10(path.read_bytes())[1]
        ]
        for wrong in ([], ["--tls", *ours], trusted):  # plain, an unknown authority, anonymous
            status, told = send(*wrong)
            assert status == 1
            assert "Traceback" not in told
        host = "localhost"  # the certificate is for 127.0.0.1
        assert send(*trusted, *ours)[0] == 1
        assert send(*trusted, *ours, "--no-verify-host")[0] == 0
        status, told = send("--tls-trusted", str(path), *ours)
        assert status == 2
        assert "tls.trusted" in told
    assert len(intake.stored) == 2


def test_a_client_without_a_good_certificate_gets_no_association(
    intake: RecordingIntake, keys: Keys, tmp_path: Path
) -> None:
    paths = write_files(tmp_path, ["1.2.1"])
    with listening(intake, tls_server(keys)) as port:
        for wrong in (keys.expired, keys.stranger):
            options = dcmtk_tls(keys, wrong)
            assert dcmtk.storescu(paths, port, options=options, check=False).returncode != 0
        anonymous = ["+tla", "+cf", str(keys.authority.certificate)]
        assert dcmtk.storescu(paths, port, options=anonymous, check=False).returncode != 0
        assert dcmtk.storescu(paths, port, check=False).returncode != 0  # no TLS at all
        assert intake.receptions == []
        dcmtk.storescu(paths, port, options=dcmtk_tls(keys, keys.peer))
    assert len(intake.stored) == 1


def test_a_client_certificate_may_be_optional_or_not_asked_for(
    intake: RecordingIntake, keys: Keys
) -> None:
    anonymous = ["+tla", "+cf", str(keys.authority.certificate)]
    with listening(intake, tls_server(keys, client_certificates="optional")) as port:
        dcmtk.echoscu(port, options=anonymous)
        dcmtk.echoscu(port, options=dcmtk_tls(keys, keys.peer))
        stranger = dcmtk_tls(keys, keys.stranger)
        assert dcmtk.echoscu(port, options=stranger, check=False).returncode != 0
    with listening(intake, tls_server(keys, client_certificates="none")) as port:
        dcmtk.echoscu(port, options=anonymous)


def test_tls_1_2_is_refused_where_1_3_is_wanted(intake: RecordingIntake, keys: Keys) -> None:
    with listening(intake, tls_server(keys, minimum="1.3")) as port:
        context = client_context(tls_client(keys, keys.peer))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError):
            context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"])
def test_ciphers_that_bcp_195_forbids_are_refused(
    intake: RecordingIntake, keys: Keys, cipher: str
) -> None:
    with listening(intake, tls_server(keys, client_certificates="none")) as port:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(keys.authority.certificate)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"{cipher}:@SECLEVEL=0")
        with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError):
            context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_plain_talk_to_tls_and_tls_to_plain_end_soon_and_harm_nobody(
    intake: RecordingIntake, keys: Keys
) -> None:
    with listening(intake, tls_server(keys)) as port, Requestor(port) as plain:
        plain.send(associate_request())
        assert closed_within(plain, 5)
        dcmtk.echoscu(port, options=dcmtk_tls(keys, keys.peer))
    with listening(intake, None) as port:
        context = client_context(tls_client(keys))
        with socket.create_connection(("127.0.0.1", port)) as secured:
            secured.settimeout(5)
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(secured, server_hostname="127.0.0.1")
        dcmtk.echoscu(port)


def test_a_handshake_that_never_comes_blocks_nobody_and_is_given_up(
    intake: RecordingIntake, keys: Keys
) -> None:
    tls = tls_server(keys)
    with listening(intake, tls, request_timeout=1.0) as port:
        silent = [Requestor(port) for _ in range(10)]
        dcmtk.echoscu(port, options=dcmtk_tls(keys, keys.peer))
        assert all(closed_within(one, 5) for one in silent)


def test_one_byte_at_a_time_and_large_objects_arrive_whole(
    intake: RecordingIntake, keys: Keys, tmp_path: Path
) -> None:
    (path,) = write_files(tmp_path, ["1.2.1"])
    path.write_bytes(document("1.2.1", padding=3_000_000).content)
    with listening(intake, tls_server(keys), spool_threshold=1 << 20) as port:
        dcmtk.storescu([path], port, options=dcmtk_tls(keys, keys.peer))
        context = client_context(tls_client(keys, keys.peer))
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        secured = context.wrap_socket(raw, server_hostname="127.0.0.1")
        with Requestor(port, connection=secured) as it:
            for byte in associate_request():
                it.send(bytes([byte]))
            answer = it.receive()
            assert answer is not None
            assert answer.kind == 2
    (received,) = intake.stored
    assert received.data_set == split_part10(path.read_bytes())[1]
    assert len(intake.spools) == 1


def test_what_cannot_be_used_is_a_configuration_error(keys: Keys, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    wrong = [
        {"certificate": empty},
        {"private_key": keys.peer.private_key},
        {"trusted": empty},
        {"trusted": None},
    ]
    for change in wrong:
        config = tls_server(keys).model_copy(update=change)
        with pytest.raises(ConfigError, match=r"sources\.pacs\.tls"):
            server_context(config, "sources.pacs.tls")


# --- the destination ------------------------------------------------------------------------


def destination(port: int, tls: TlsClientConfig | None, ae_title: str = "PACS") -> DicomDestination:
    return DicomDestination(
        DicomDestinationConfig(
            ae_title=ae_title, host="127.0.0.1", port=port, tls=tls, connect_timeout=3.0
        ),
        DestinationContext("pacs", FrozenClock(), NoConfirmations()),
    )


def test_storescp_gets_a_document_by_tls(keys: Keys, tmp_path: Path) -> None:
    port = free_port()
    command = [find_tool("storescp", "dcmtk"), "-od", str(tmp_path), "+B"]
    process = subprocess.Popen(
        [*command, *dcmtk_tls(keys, keys.peer), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        pacs = destination(port, tls_client(keys, keys.hub))
        eventually(lambda: reachable(pacs))
        sent = document(padding=700_000)
        assert pacs.deliver(sent, "key").detail == "C-STORE 0x0000"
        (stored,) = [path for path in tmp_path.iterdir() if path.is_file()]
        assert split_part10(stored.read_bytes()) == split_part10(sent.content)
        for wrong in (tls_client(keys), tls_client(keys, keys.stranger), None):
            with pytest.raises(TransientError):
                destination(port, wrong).deliver(sent, "key")
    finally:
        process.terminate()
        process.wait()


def reachable(pacs: DicomDestination) -> bool:
    try:
        return bool(pacs.check())
    except TransientError:
        return False


@contextmanager
def scp(keys: Keys, identity: Identity) -> Iterator[int]:
    """A PACS that shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.private_key)
    ae, port = AE("PACS"), free_port()
    ae.add_supported_context(ENCAPSULATED_PDF, ["1.2.840.10008.1.2.1"])
    handlers = [(evt.EVT_C_STORE, lambda event: 0)]
    server = ae.start_server(
        ("127.0.0.1", port), block=False, ssl_context=context, evt_handlers=handlers
    )
    try:
        yield port
    finally:
        server.shutdown()


def test_a_pacs_is_believed_by_its_certificate_alone(keys: Keys) -> None:
    tls = tls_client(keys)
    with scp(keys, keys.peer) as port:
        assert destination(port, tls).deliver(document(), "key").detail == "C-STORE 0x0000"
    elsewhere = keys.authority.issue("elsewhere", host="pacs.example.org")
    with scp(keys, elsewhere) as port:
        with pytest.raises(TransientError, match="TLS"):
            destination(port, tls).deliver(document(), "key")
        relaxed = tls_client(keys, verify_host=False)
        assert destination(port, relaxed).deliver(document(), "key")
    for wrong in (keys.expired, keys.stranger):
        with scp(keys, wrong) as port, pytest.raises(TransientError, match="TLS"):
            destination(port, tls).deliver(document(), "key")


# --- Orthanc, as client and as server ---------------------------------------------------------


def orthanc_with_tls(orthanc: Orthanc, keys: Keys, modalities: dict[str, Any]) -> None:
    orthanc.stop()
    file = orthanc.folder / "orthanc.json"
    configuration = json.loads(file.read_text())
    configuration |= {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(keys.peer.certificate),
        "DicomTlsPrivateKey": str(keys.peer.private_key),
        "DicomTlsTrustedCertificates": str(keys.authority.certificate),
        "DicomModalities": modalities,
    }
    file.write_text(json.dumps(configuration))
    orthanc.start()


def test_orthanc_and_the_hub_talk_by_tls_in_both_directions(
    intake: RecordingIntake, keys: Keys, orthanc: Orthanc
) -> None:
    with listening(intake, tls_server(keys)) as port:
        hub = {"AET": "CAIDX", "Host": "127.0.0.1", "Port": port, "UseDicomTls": True}
        orthanc_with_tls(orthanc, keys, {"hub": hub})
        pacs = destination(orthanc.dicom_port, tls_client(keys, keys.hub), orthanc.ae_title)
        assert pacs.deliver(document("2.25.7"), "key").detail == "C-STORE 0x0000"
        (held,) = orthanc.instances(STUDY)
        url = f"{orthanc.http_url}/modalities/hub"
        assert httpx.post(f"{url}/echo", json={}, timeout=30).is_success
        assert httpx.post(f"{url}/store", json=[held], timeout=30).is_success
        eventually(lambda: len(intake.stored) == 1)
    assert intake.stored[0].data_set == split_part10(document("2.25.7").content)[1]


def test_certificates_that_break_are_found_at_the_start_and_keep_documents_waiting_later(
    keys: Keys, tmp_path: Path
) -> None:
    """Files are exchanged while the hub runs, and are read anew for each association."""
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(keys.authority.certificate.read_bytes())
    config = DicomDestinationConfig(
        ae_title="PACS",
        host="127.0.0.1",
        port=free_port(),
        tls=TlsClientConfig(trusted=authorities),
    )
    context = DestinationContext("pacs", FrozenClock(), NoConfirmations())
    pacs = build_destination(config, context)
    authorities.write_text("half written")
    with pytest.raises(TransientError, match=r"tls\.trusted"):
        pacs.deliver(document("2.25.7"), "key")
    with pytest.raises(ConfigError, match=r"destinations\.pacs\.tls\.trusted"):
        build_destination(config, context)
    archive = DicomArchiveConfig(ae_title="PACS", host="127.0.0.1", tls=config.tls)
    with pytest.raises(ConfigError, match=r"archives\.pacs\.tls\.trusted"):
        build_archive(archive, ArchiveContext("pacs", RecordingIntake(), FrozenClock()))
    with pytest.raises(ConfigError, match=r"tls\.trusted"):
        send_files(
            [],
            host="127.0.0.1",
            port=1,
            called_ae_title="PACS",
            calling_ae_title="CAIDX",
            tls=SendTls(trusted=authorities),
        )
