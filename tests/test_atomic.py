"""Files replaced in one step: killed, crowded, on full disks and in forbidden places."""

import contextlib
import errno
import json
import multiprocessing
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import sys
import threading

import pytest
from model_files import assert_equal, model

from lfm_np import Factors, atomic
from lfm_np.kernels.jit import JIT_DISABLED

ROOT = pathlib.Path(__file__).parent.parent
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX modes, FIFOs and locks")
pytestmark = [pytest.mark.small, posix]


@contextlib.contextmanager
def umask(mask):
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0, 0o666)])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path, mask, expected):
    with umask(mask):
        model().save(tmp_path / "m")
    assert mode(tmp_path / "m") == expected


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    """As where two files are written that belong together: one of them is written within the block of the other."""
    for other, error in ((tmp_path / "nowhere" / "m", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(OSError, match=error) as caught, atomic.replacing(tmp_path / "new"):
            model().save(other)
        assert caught.value.filename == str(other)
        assert str(caught.value).count("nothing was written") == 1
    with pytest.raises(OSError, match="nothing was written") as caught, atomic.replacing(tmp_path / "new"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [0o600, 0o640, 0o666, 0o755])
def test_a_replaced_file_keeps_its_mode(tmp_path, kept):
    path = tmp_path / "m"
    model().save(path)
    path.chmod(kept)
    model(k=8).save(path)
    assert mode(path) == kept
    assert Factors.load(path).user_factors.shape == (5, 8)


def test_a_file_system_without_modes(tmp_path, monkeypatch):
    """All files have one there, and none can be given another."""

    def chmod(*args, **keywords):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    model().save(tmp_path / "m")
    monkeypatch.setattr(os, "chmod", chmod)
    model(k=8).save(tmp_path / "m")
    assert Factors.load(tmp_path / "m").user_factors.shape == (5, 8)
    assert os.listdir(tmp_path) == ["m"]


def test_where_an_open_file_cannot_be_replaced(tmp_path, monkeypatch):
    """On Windows, which has no locks either: what is left there nobody removes."""

    def replace(source, target):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), source, None, target)

    model().save(tmp_path / "m")
    with monkeypatch.context() as windows:
        windows.setattr(atomic.os, "name", "nt")
        windows.setattr(atomic.os, "replace", replace)
        with pytest.raises(PermissionError, match="nothing was written"):
            model(k=8).save(str(tmp_path / "m"))
    assert os.listdir(tmp_path) == ["m"]
    assert_equal(Factors.load(tmp_path / "m"), model())


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "other").mkdir()
    link, path = tmp_path / "link", tmp_path / "other" / "m"
    link.symlink_to(path)
    model().save(link)  # to a name that is not there yet
    model(k=8).save(link)
    assert link.is_symlink()
    assert Factors.load(path).user_factors.shape == (5, 8)
    assert os.listdir(tmp_path / "other") == ["m"]


def test_an_exception_leaves_the_old_file(tmp_path):
    (tmp_path / "m").write_bytes(b"old")

    def half_a_file():
        with atomic.replacing(str(tmp_path / "m")) as file:
            file.write(b"half")
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        half_a_file()
    assert os.listdir(tmp_path) == ["m"]
    assert (tmp_path / "m").read_bytes() == b"old"


# ---- what is no regular file ----------------------------------------------------------------------------------------


def special(tmp_path, kind):
    path = tmp_path / "special"
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        with contextlib.chdir(tmp_path), socket.socket(socket.AF_UNIX) as server:
            server.bind("special")
    else:
        path = pathlib.Path(os.devnull)
    return path


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a device"])
@pytest.mark.parametrize("mmap", [False, True])
def test_special_files_are_refused_at_once(tmp_path, kind, mmap):
    path = special(tmp_path, kind)
    before = os.lstat(path)
    for call in (lambda: Factors.load(path, mmap=mmap), lambda: model().save(path)):
        with pytest.raises(ValueError, match=f"must name a regular file, got {path}, {kind}"):
            call()
    assert os.path.samestat(before, os.lstat(path))


def test_a_folder_is_refused(tmp_path):
    for call in (lambda: model().save(tmp_path), lambda: Factors.load(tmp_path)):
        with pytest.raises(IsADirectoryError) as error:
            call()
        assert error.value.filename == str(tmp_path)


# ---- disks that say no ----------------------------------------------------------------------------------------------


class Failing:
    """A file whose n-th call of one method fails; n = 0 is the first."""

    def __init__(self, file, method, left, error):
        self._file, self._method, self._left, self._error = file, method, left, error

    def __getattr__(self, name):
        if name == self._method:
            self._left -= 1
            if self._left < 0:
                raise OSError(self._error, os.strerror(self._error))
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


@pytest.mark.parametrize(("method", "calls"), [("write", 7), ("seek", 1), ("flush", 1)])
def test_every_call_may_fail(tmp_path, monkeypatch, method, calls):
    path = tmp_path / "m"
    model().save(path)
    for good in range(calls + 1):

        def full(name, how, good=good, **options):
            file = open(name, how, **options)  # noqa: SIM115 (the caller closes it)
            return file if options else Failing(file, method, good, errno.ENOSPC)

        monkeypatch.setattr(atomic, "open", full, raising=False)
        if good == calls:  # as many as there are
            model(k=8).save(path)
            assert Factors.load(path).user_factors.shape == (5, 8)
            break
        with pytest.raises(OSError, match="No space left on device; nothing was written") as error:
            model(k=8).save(path)
        assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
        assert os.listdir(tmp_path) == ["m"]
        assert_equal(Factors.load(path), model())


@pytest.mark.parametrize("function", ["fsync", "replace", "chmod", "stat", "access"])
def test_every_system_call_may_fail(tmp_path, monkeypatch, function):
    path = tmp_path / "m"
    model().save(path)
    path.chmod(0o640)  # which a new file has not

    def fail(*args, **kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, function, fail)
        with pytest.raises(OSError, match="Input/output error; nothing was written") as error:
            model(k=8).save(path)
    assert error.value.filename == str(path)
    assert_equal(Factors.load(path), model())
    assert os.listdir(tmp_path) == ["m"]


def test_a_limit_on_the_size_of_files(tmp_path):
    """RLIMIT_FSIZE at every 64 bytes: what a full disk does at every place of the file."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "m"
    model().save(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.stat().st_size
    for limit in range(0, size, 64):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match="File too large; nothing was written"):
                model().save(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert os.listdir(tmp_path) == ["m"]
        assert_equal(Factors.load(path), model())


def test_a_write_protected_file_or_folder(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "m"
    model().save(path)
    if os.geteuid() == 0:  # root may write anywhere: the next best thing
        monkeypatch.setattr(atomic.os, "access", lambda path, how: False)
    path.chmod(0o444)
    with pytest.raises(PermissionError, match="write-protected; nothing was written"):
        model(k=8).save(path)
    monkeypatch.undo()
    path.chmod(0o644)
    if os.geteuid() == 0:

        def forbidden(path, how, **options):
            if options:  # to read
                return open(path, how, **options)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

        monkeypatch.setattr(atomic, "open", forbidden, raising=False)
    folder.chmod(0o555)
    with pytest.raises(PermissionError, match="Permission denied; nothing was written") as error:
        model(k=8).save(path)
    assert error.value.filename == str(path)
    folder.chmod(0o755)
    assert os.listdir(folder) == ["m"]
    assert_equal(Factors.load(path), model())


# ---- killed and crowded ---------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path[:0] = {path}
from lfm_np import atomic
with atomic.replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.{signal})
"""


def die_writing(path, name):
    code = KILLED.format(path=sys.path, signal=name)
    assert subprocess.run([sys.executable, "-c", code, path]).returncode != 0


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_what_killed_writers_leave_is_removed(tmp_path, name):
    path = tmp_path / "m"
    model().save(path)
    for _ in range(2):
        die_writing(path, name)
        assert sorted(os.listdir(tmp_path)) == [".lfm_np.0.tmp", "m"]  # one, however many were killed
        assert_equal(Factors.load(path), model())
    model(k=8).save(path)
    assert os.listdir(tmp_path) == ["m"]


def test_what_lives_or_is_foreign_is_left_alone(tmp_path):
    path, foreign = tmp_path / "m", tmp_path / ".lfm_np.0.tmp"
    foreign.mkdir()
    with atomic.replacing(str(path)) as outer:
        outer.write(b"outer")
        for _ in range(3):
            model().save(path)
            assert sorted(os.listdir(tmp_path)) == [".lfm_np.0.tmp", ".lfm_np.1.tmp", "m"]
    assert path.read_bytes() == b"outer"
    assert sorted(os.listdir(tmp_path)) == [".lfm_np.0.tmp", "m"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    (tmp_path / ".lfm_np.0.tmp").write_bytes(b"perhaps somebody's")
    model().save(tmp_path / "m")
    assert sorted(os.listdir(tmp_path)) == [".lfm_np.0.tmp", "m"]
    assert_equal(Factors.load(tmp_path / "m"), model())


def save_many(path, k, count):
    for _ in range(count):
        model(k=k).save(path)


@pytest.mark.skipif(JIT_DISABLED, reason="what it writes is the same then")
def test_four_writers_and_four_readers(tmp_path):
    path = tmp_path / "m"
    model(k=1).save(path)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=save_many, args=(path, k, 40)) for k in (1, 2, 3, 4)]
    seen, errors = set(), []

    def read(mmap):
        try:
            while any(writer.is_alive() for writer in writers):
                factors = Factors.load(path, mmap=mmap)
                k = factors.user_factors.shape[1]
                assert_equal(factors, model(k=k))
                seen.add(k)
        except BaseException as error:
            errors.append(error)

    for writer in writers:
        writer.start()
    readers = [threading.Thread(target=read, args=(mmap,)) for mmap in (False, True, False, True)]
    for reader in readers:
        reader.start()
    for thing in readers + writers:
        thing.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert not errors
    assert seen <= {1, 2, 3, 4}
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.skipif(JIT_DISABLED, reason="what it writes is the same then")
def test_kill_9_at_random_moments():
    """A bounded run of the script; it says what it checks."""
    command = [sys.executable, "-m", "benchmarks.kill_checkpoint", "--kills", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(row.get("while writing", 0) for row in rows) > 0  # some were hit in the act
    assert max(row.get("temp files", 0) for row in rows) <= 1


def test_a_folder_is_that_of_one_writer_whole(tmp_path):
    """Of many at once, again and again, while some fail half way."""
    names = [f"file {number}" for number in range(8)]

    def write(writer, start, results):
        start.wait()
        try:
            with atomic.appearing(folder) as place:
                for name in names:
                    with open(place / name, "x") as file:
                        file.write(str(writer))
                if writer == 0:
                    raise KeyError("half way")
        except (FileExistsError, KeyError) as error:
            results[writer] = error
        else:
            results[writer] = None

    for round in range(60):
        folder, start, results = tmp_path / str(round), threading.Barrier(4), {}
        (tmp_path / f"{round}.partial").mkdir()  # of a writer that was killed
        for name in (names[0], ".lfm_np.partial"):
            (tmp_path / f"{round}.partial" / name).write_text("old")
        writers = [threading.Thread(target=write, args=(writer, start, results)) for writer in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        done = [writer for writer, error in results.items() if error is None]
        assert len(results) == 4
        assert len(done) <= 1
        assert os.listdir(tmp_path) == ([str(round)] if done else [])
        if done:
            assert {(folder / name).read_text() for name in names} == {str(done[0])}
            assert sorted(os.listdir(folder)) == names
            shutil.rmtree(folder)


def test_what_is_in_the_way_of_a_folder_is_not_followed(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "kept").touch()
    (tmp_path / "x.partial").symlink_to("other")
    with pytest.raises(OSError, match=r"x\.partial"), atomic.appearing(tmp_path / "x"):
        pass
    assert os.listdir(tmp_path / "other") == ["kept"]


def test_a_folder_that_only_has_the_name_of_an_unfinished_one_is_kept(tmp_path):
    with atomic.appearing(tmp_path / "x.partial") as place:
        (place / "kept").touch()
    assert os.listdir(tmp_path / "x.partial") == ["kept"]
    with (
        pytest.raises(FileExistsError, match=r"no writer left; move it: .*x\.partial"),
        atomic.appearing(tmp_path / "x"),
    ):
        pass
    assert os.listdir(tmp_path / "x.partial") == ["kept"]


@pytest.mark.parametrize(("name", "error"), [("m/.", IsADirectoryError), (".lfm_np.0.tmp", ValueError)])
def test_names_that_would_be_another_file_or_none(name, error, tmp_path):
    """What has the name of a temporary file vanished when the next writer came, or at once."""
    with pytest.raises(error):
        model().save(os.path.join(tmp_path, name))
    assert not list(tmp_path.iterdir())
