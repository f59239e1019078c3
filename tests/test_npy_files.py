"""Room for a file before it is mapped, on file systems with and without a call for it."""

import errno
import os

import pytest

from lfm_np import npy_files

pytestmark = pytest.mark.small


@pytest.mark.parametrize("call", ["there", "EOPNOTSUPP", "absent"])
def test_a_file_has_its_blocks_before_it_is_mapped(call, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(getattr(errno, call), os.strerror(getattr(errno, call)))

    if call == "absent":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    elif call != "there":
        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    size = 5 << 19
    with open(tmp_path / "file", "x+b") as file:
        file.write(b"header")
        npy_files.allocate(file, size, "the path")
        assert os.fstat(file.fileno()).st_blocks * 512 >= size
    assert (tmp_path / "file").read_bytes() == b"header".ljust(size, b"\0")


def test_a_file_that_cannot_be_filled_is_an_error_with_the_path(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open(tmp_path / "file", "x+b") as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(OSError, match="File too large: 'the path'"):
                npy_files.allocate(file, 5 << 19, "the path")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
