"""Archives that are given to a script instead of the folder in them: whole, cut, damaged, of another checksum."""

import gzip
import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_scripts.archives import Checksum, is_whole, refuse_archive
from data_scripts.prepare_openimages import OPENIMAGES
from data_scripts.prepare_pascal3d import PASCAL3D
from data_scripts.prepare_pix3d import PIX3D
from data_scripts.sources import check_source
from lib.errors import InputError

MEMBERS = {f"data/{number}.bin": np.random.default_rng(number).bytes(700 + 300 * number) for number in range(4)}
KINDS = ("a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.csv.gz")


def write_archive(path: Path) -> Path:
    """Of the kind that its name says, with members of random bytes."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in MEMBERS.items():
                archive.writestr(name, data)
    elif path.name.endswith(".csv.gz"):
        path.write_bytes(gzip.compress(b"".join(MEMBERS.values())))
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
            for name, data in MEMBERS.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def content_end(path: Path) -> int:
    """Where a tar's last member ends; what follows are zeros, of which one block and more may be missing."""
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    return last.offset_data + -(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


@pytest.mark.parametrize("name", KINDS)
def test_whole_archives_are_to_be_unpacked(tmp_path, name):
    with pytest.raises(InputError, match=r"is an archive; unpack it and give the folder\.$"):
        refuse_archive(write_archive(tmp_path / name), {})


@pytest.mark.parametrize("name", KINDS)
def test_archives_cut_anywhere_are_half_downloaded(tmp_path, name):
    path = write_archive(tmp_path / name)
    data = path.read_bytes()
    end = content_end(path) if name == "a.tar" else len(data) - 1
    blocks = range(0, end, tarfile.BLOCKSIZE)  # between blocks and so between members, too
    for size in {1, 100, *blocks, *(min(at + 37, end) for at in blocks), end - 1, end}:
        path.write_bytes(data[:size])
        assert not is_whole(path), size
    with pytest.raises(InputError, match="is an archive; it is damaged or half downloaded: fetch it again"):
        refuse_archive(path, {})


def test_a_tar_with_a_damaged_header_is_not_whole(tmp_path):
    path = write_archive(tmp_path / "a.tar")
    with tarfile.open(path) as archive:
        second = archive.getmembers()[1].offset
    data = bytearray(path.read_bytes())
    data[second + 10] ^= 0xFF
    path.write_bytes(data)
    assert not is_whole(path)


def test_checksums_are_compared(tmp_path):
    path = write_archive(tmp_path / "pix3d.zip")
    right = Checksum("sha256", hashlib.sha256(path.read_bytes()).hexdigest(), "somebody")
    with pytest.raises(InputError, match="whole by its sha256 as somebody recorded it; unpack it"):
        check_source(path, (), replace(PIX3D, checksums={"pix3d.zip": right}))
    with pytest.raises(InputError, match="its sha256 is not 16dc7d5028d4"):
        check_source(path, (), PIX3D)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="half downloaded: fetch it again"):
        check_source(path, (), PIX3D)
    other = write_archive(tmp_path / "other.zip")
    with pytest.raises(InputError, match=r"is an archive; unpack it"):
        check_source(other, (), PIX3D)


def test_recorded_checksums_have_the_length_of_their_algorithm():
    recorded = [*PIX3D.checksums.values(), *PASCAL3D.checksums.values(), *OPENIMAGES.checksums.values()]
    assert len(recorded) == len({checksum.digest for checksum in recorded}) == 1 + 1 + 18
    for checksum in recorded:
        assert len(bytes.fromhex(checksum.digest)) == hashlib.new(checksum.algorithm).digest_size
