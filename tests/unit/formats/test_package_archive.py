"""ZIP files as strangers make them: what no package has is refused, by name."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable

import pytest

from hub.errors import ConfigError
from hub.formats.manifest.package_archive import (
    MOST_DIRECTORY_BYTES,
    MOST_MEMBERS,
    PackageArchive,
    looks_like_archive,
)

MIB = 1 << 20


def archive(**members: bytes) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name.replace("_", "."), content)
    return file


def opened(file: io.BytesIO, maximum_bytes: int = 10 * MIB) -> PackageArchive:
    return PackageArchive(file, "model.zip", maximum_bytes=maximum_bytes)


def refusal(file: io.BytesIO, maximum_bytes: int = 10 * MIB) -> str:
    with pytest.raises(ConfigError) as caught:
        opened(file, maximum_bytes)
    return str(caught.value)


def with_member(change: Callable[[zipfile.ZipInfo], None], name: str = "x") -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        info = zipfile.ZipInfo(name)
        change(info)
        made.writestr(info, b"content")
    return file


def test_files_are_read_and_folders_are_none() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.mkdir("weights")
        made.writestr("weights/a.bin", b"a" * (3 * MIB))
        made.writestr("model.yaml", b"id: x")
    found = opened(file)
    assert set(found.names) == {"weights/a.bin", "model.yaml"}
    assert b"".join(found.chunks("weights/a.bin")) == b"a" * (3 * MIB)
    assert looks_like_archive(file.getvalue())


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/passwd", "C:/x", "a\\..\\x", "//server/x", "a:b", "x\n"],
)
def test_a_name_that_leads_out_is_refused(name: str) -> None:
    def named(info: zipfile.ZipInfo) -> None:
        info.filename = name

    assert "leads out of the package, or is no plain" in refusal(with_member(named))


def test_a_name_that_ends_in_the_middle_is_refused() -> None:
    file = archive(aaaaa=b"x")
    changed = io.BytesIO(file.getvalue().replace(b"aaaaa", b"aa\0aa"))
    assert "no plain relative name" in refusal(changed)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_a_link_or_a_device_is_refused(kind: int) -> None:
    def linked(info: zipfile.ZipInfo) -> None:
        info.external_attr = (kind | 0o777) << 16

    assert "x: is a link or a device" in refusal(with_member(linked))


@pytest.mark.parametrize("second", ["a", "A"])
def test_a_name_that_is_there_twice_is_refused(second: str) -> None:
    file = archive(a=b"1")
    with zipfile.ZipFile(file, "a") as made, pytest.warns() if second == "a" else _nothing():
        made.writestr(second, b"2")
    assert "is there twice" in refusal(file)


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_an_encrypted_member_is_refused() -> None:
    content = bytearray(archive(a=b"1").getvalue())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    assert "is encrypted" in refusal(io.BytesIO(content))


def test_another_compression_is_refused() -> None:
    def bzip(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_BZIP2

    assert "another method than deflate" in refusal(with_member(bzip))


def test_a_bomb_is_refused_before_it_is_read() -> None:
    assert "unpacks to more than 200 times its size" in refusal(archive(a=bytes(5 * MIB)))
    assert f"unpacks to {5 * MIB} bytes; at most {4 * MIB} may be" in refusal(
        archive(a=bytes(5 * MIB)), 4 * MIB
    )


def test_a_bomb_that_lies_about_its_size_is_cut_off() -> None:
    content = bytearray(archive(a=bytes(5 * MIB)).getvalue())
    for signature, size in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + size
        content[at : at + 4] = struct.pack("<I", 100)
    read: list[bytes] = []
    with pytest.raises(ConfigError, match=r"a: (is damaged|has another length)"):
        read.extend(opened(io.BytesIO(content)).chunks("a"))
    assert sum(map(len, read)) <= 100


def test_a_member_that_is_shorter_than_it_says_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as made:
        made.writestr("a", b"content")
    content = bytearray(file.getvalue())
    for signature, size in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + size
        content[at : at + 4] = struct.pack("<I", 100)
    with pytest.raises(ConfigError, match="a: has another length than it says"):
        b"".join(opened(io.BytesIO(content)).chunks("a"))


def test_many_members_are_refused() -> None:
    many = {f"f{number}": b"" for number in range(MOST_MEMBERS + 1)}
    assert "members; at most 1000" in refusal(archive(**many))


def test_damage_is_told() -> None:
    whole = archive(a=b"1234567890" * 100).getvalue()
    assert "is not a ZIP file" in refusal(io.BytesIO(whole[: len(whole) // 2]))
    assert "is not a ZIP file" in refusal(io.BytesIO(b"PK\x03\x04nothing"))
    changed = bytearray(whole)
    changed[40] ^= 0xFF
    with pytest.raises(ConfigError, match="a: is damaged"):
        b"".join(opened(io.BytesIO(changed)).chunks("a"))
    with pytest.raises(ConfigError, match="b: is not in the archive"):
        b"".join(opened(io.BytesIO(whole)).chunks("b"))


def test_a_name_cannot_colour_a_terminal() -> None:
    def named(info: zipfile.ZipInfo) -> None:
        info.filename = "\x1b[31mred" + "x" * 500

    said = refusal(with_member(named))
    assert "\x1b" not in said
    assert len(said) < 250


def test_a_list_of_very_many_members_is_not_read() -> None:
    """44 MiB of it took 40 s and 0.5 GiB, and no limit on members was reached."""
    member = zipfile.ZipInfo("a")
    entry = (
        struct.pack(
            "<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0
        )
        + member.filename.encode()
    )
    count = MOST_DIRECTORY_BYTES // len(entry) + 1
    directory = entry * count
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 7, 7, len(directory), 0, 0)
    assert refusal(io.BytesIO(directory + end)).endswith("is not a ZIP file")
    few = entry * (MOST_MEMBERS + 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 7, 7, len(few), 0, 0)
    assert "members; at most" in refusal(io.BytesIO(few + end))
