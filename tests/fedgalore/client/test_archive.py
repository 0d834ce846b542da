"""The tar of a download becomes a folder, or nothing does."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedgalore.client import BadDownload
from fedgalore.client.archive import unpack


def a_tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def a_link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def chunks(data: bytes, size: int = 700) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def test_unpack_leaves_out_the_top_folder(tmp_path: Path) -> None:
    data = a_tar((tarfile.TarInfo("job/config.json"), b"{}"), (tarfile.TarInfo("job/sub/x.bin"), bytes(5000)))
    unpack(chunks(data), tmp_path / "new" / "model")
    assert (tmp_path / "new" / "model" / "config.json").read_bytes() == b"{}"
    assert (tmp_path / "new" / "model" / "sub" / "x.bin").stat().st_size == 5000


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../evil"),
        tarfile.TarInfo("job/../../evil"),
        tarfile.TarInfo("/evil"),
        tarfile.TarInfo("evil"),
        a_link("job/evil", "/etc"),
        a_link("job/evil", "job/config.json", tarfile.LNKTYPE),
        a_link("job/evil", "", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
def test_unpack_refuses_what_is_no_plain_file_inside(member: tarfile.TarInfo, tmp_path: Path) -> None:
    data = a_tar((tarfile.TarInfo("job/config.json"), b"{}"), (member, b""))
    with pytest.raises(BadDownload, match="evil"):
        unpack(chunks(data), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_unpack_keeps_nothing_of_a_tar_that_is_cut_off(tmp_path: Path) -> None:
    data = a_tar((tarfile.TarInfo("job/x.bin"), bytes(5000)))
    with pytest.raises(BadDownload, match="not a whole tar"):
        unpack(chunks(data[:3000]), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
