"""MovieLens: archives made here, the local npz files where there are any, and a download from a server of our own."""

import errno
import hashlib
import http.server
import sys
import threading
import zipfile

import numpy as np
import pytest
from optional import require

import lfm_np
from lfm_np import npz_files
from lfm_np.datasets import grouplens, movielens, movielens_records, movielens_split, movielens_titles

ROWS = [(3, 20, 4, 881250949), (1, 20, 5, 881250950), (3, 7, 1, 881250951), (2, 31, 3.5, 881250952)]
TEXT = {
    "100k": ("ml-100k/u.data", "", "\t"),
    "1m": ("ml-1m/ratings.dat", "", "::"),
    "10m": ("ml-10M100K/ratings.dat", "", "::"),
    "20m": ("ml-20m/ratings.csv", "userId,movieId,rating,timestamp\r\n", ","),
    "25m": ("ml-25m/ratings.csv", "userId,movieId,rating,timestamp\n", ","),
    "32m": ("ml-32m/ratings.csv", "userId,movieId,rating,timestamp\n", ","),
    "latest-small": ("ml-latest-small/ratings.csv", "userId,movieId,rating,timestamp\n", ","),
}


def write_archive(folder, name, rows=ROWS, **more):
    member, header, delimiter = TEXT[name]
    ending = "\r\n" if "\r" in header else "\n"
    path = folder / f"ml-{name}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, header + "".join(delimiter.join(map(str, row)) + ending for row in rows))
        archive.writestr(member.rsplit("/", 1)[0] + "/README.txt", "not ratings")
        for extra, extra_rows in more.items():
            archive.writestr(f"ml-100k/{extra}.test", "".join("\t".join(map(str, row)) + "\n" for row in extra_rows))
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LFM_NP_DATA", str(tmp_path))
    return tmp_path


# ---- archives -------------------------------------------------------------------------------------------------------


@pytest.mark.small
@pytest.mark.parametrize("name", TEXT)
def test_every_archive_is_parsed(folder, name):
    write_archive(folder, name)
    data = movielens(name)
    assert data.users.tolist() == [1, 2, 3]
    assert data.items.tolist() == [7, 20, 31]
    np.testing.assert_array_equal(data.matrix.toarray(), [[0, 5, 0], [0, 0, 3.5], [1, 4, 0]])
    assert data.timestamps.tolist() == [881250950, 881250952, 881250951, 881250949]
    records = movielens_records(name)
    np.testing.assert_array_equal(np.column_stack(records), np.array(ROWS))


@pytest.mark.small
def test_the_folder_may_be_below_ones_home(folder, monkeypatch):
    write_archive(folder, "100k")
    for home in ("HOME", "USERPROFILE"):  # the second on Windows
        monkeypatch.setenv(home, str(folder.parent))
    monkeypatch.setenv("LFM_NP_DATA", f"~/{folder.name}")
    assert movielens("100k").matrix.nnz == len(ROWS)


@pytest.mark.small
def test_splits_of_the_archive(folder):
    write_archive(folder, "100k", u1=[ROWS[2]], ua=[ROWS[0], ROWS[3]])
    train, test, negatives = movielens_split("100k", "u1")
    assert negatives is None
    np.testing.assert_array_equal(test.matrix.toarray(), [[0, 0, 0], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(train.matrix.toarray(), [[0, 5, 0], [0, 0, 3.5], [0, 4, 0]])
    assert movielens_split("100k", "ua").test.matrix.nnz == 2
    with pytest.raises(ValueError, match=r"no u2\.test"):
        movielens_split("100k", "u2")
    write_archive(folder, "1m")
    with pytest.raises(ValueError, match="not part of MovieLens"):
        movielens_split("1m", "ncf")


@pytest.mark.small
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(1, 2, 3)], "3 columns instead of 4"),
        ([(1, 2, "x", 4)], "cannot read ratings.csv"),
        ([*ROWS, ROWS[0]], r"pair \(3, 20\) occurs more than once"),
    ],
)
def test_damaged_ratings(folder, rows, words):
    write_archive(folder, "25m", rows)
    with pytest.raises(ValueError, match=words):
        movielens("25m")


@pytest.mark.small
def test_damaged_archives(folder):
    (folder / "ml-1m.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"cannot read u\.data"):
        movielens("1m")
    with zipfile.ZipFile(folder / "ml-20m.zip", "w") as archive:
        archive.writestr("ml-20m/movies.csv", "1,Toy Story")
    with pytest.raises(ValueError, match="not a MovieLens archive"):
        movielens("20m")


@pytest.mark.small
def test_unknown_names():
    with pytest.raises(ValueError, match="'100k', '1m', '10m', '20m', '25m', '32m', 'latest-small'"):
        movielens("1M")
    with pytest.raises(ValueError, match="split must be one of 'ncf'"):
        movielens_split("1m", "u1")


@pytest.mark.small
@pytest.mark.parametrize(
    ("name", "member", "text"),
    [
        ("100k", "ml-100k/u.item", "7|Antonia's, Line (1995)|01-Jan\n20|Misérables, Les (1995)||\n".encode("latin-1")),
        ("1m", "ml-1m/movies.dat", "7::Antonia's, Line (1995)::A|B\n20::Misérables, Les (1995)::C\n".encode("latin-1")),
        ("10m", "ml-10M100K/movies.dat", "7::Antonia's, Line (1995)::A\n20::Misérables, Les (1995)::C\n".encode()),
        ("25m", "movies.csv", 'movieId,title\n7,"Antonia\'s, Line (1995)",A\r\n20,"Misérables, Les (1995)"\n'.encode()),
    ],
)
def test_titles_of_every_archive(folder, monkeypatch, name, member, text):
    write_archive(folder, name)
    with pytest.raises(ValueError, match="has no titles"):
        movielens_titles(name)
    with zipfile.ZipFile(folder / f"ml-{name}.zip", "a") as archive:
        archive.writestr(member, text)
    (folder / f"ml-{name}.npz").touch()  # has no titles, so it is not looked at
    assert movielens_titles(name) == {7: "Antonia's, Line (1995)", 20: "Misérables, Les (1995)"}


@pytest.mark.small
@pytest.mark.parametrize(
    ("member", "text", "title"),
    [
        ("movies.dat", "7::A\u2028B::x\r\n", "A\u2028B"),
        ("movies.dat", b"7::A\x85\xe9::x\n", "A\x85é"),
        ("movies.csv", 'movieId,title\n7,"A\nB"\n', "A\nB"),
    ],
)
def test_lines_of_titles_end_at_line_ends_only(folder, member, text, title):
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as archive:
        archive.writestr(member, text)
    assert movielens_titles("1m") == {7: title}


@pytest.mark.small
def test_titles_that_cannot_be_had(folder, monkeypatch):
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/movies.dat", "7::a::b\nseven\n")
    with pytest.raises(ValueError, match=r"cannot read movies\.dat in .*ml-1m\.zip: "):
        movielens_titles("1m")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match="pooch is not installed"):
        movielens_titles("100k")


# ---- npz ------------------------------------------------------------------------------------------------------------


@pytest.mark.small
def test_npz_comes_first_and_unknown_is_nan(folder):
    write_archive(folder, "1m")
    np.savez(
        folder / "ml-1m.npz",
        user=np.array([0, 0, 1, 1], np.int32),
        item=np.array([0, 1, 2, 0], np.int32),
        movie_id=np.array([50, 9, 70, 50], np.int16),
        value=np.array([5, 0, 2, 3], np.float32),
        timestamp=np.array([100, -1, 300, 400]),
        known=np.array([True, False, True, True]),
        ncf_split=np.array([0, 2, 2, 0], np.int8),
        ncf_test_negatives=np.array([[2, 1, 2], [1, 2, 1]], np.int32),
    )
    data = movielens("1m")
    assert data.users.tolist() == [1, 2]
    assert data.items.tolist() == [9, 50, 70]
    np.testing.assert_array_equal(data.matrix.data, [np.nan, 5, 3, 2])
    np.testing.assert_array_equal(data.timestamps, [np.nan, 100, 400, 300])
    train, test, negatives = movielens_split("1m", "ncf")
    assert train.matrix.indices.tolist() == [1, 1]
    assert test.matrix.indices.tolist() == [0, 2]
    assert negatives.tolist() == [[2, -1, 2], [0, -1, 0]]


NPZ = {"user": [0, 0, 1, 1], "item": [0, 3, 2, 0], "value": [5, 0, 2, 3], "timestamp": [100, -1, 300, 400]}
NCF = {"ncf_split": [0, 2, 2, 0], "ncf_test_negatives": [[2, 1, -1], [1, 2, 3]]}


@pytest.mark.small
def test_drawn_negatives_that_nobody_rated_are_none(folder):
    np.savez(folder / "ml-1m.npz", **NPZ, **NCF)  # item 1 has no rating, item 2 is what the second user has held out
    assert movielens_split("1m", "ncf").negatives.tolist() == [[1, -1, -1], [-1, -1, 2]]


@pytest.mark.small
@pytest.mark.parametrize(
    ("name", "array", "error"),
    [
        ("user", [0, -1, 1, 1], "user in .* from 0 on, got -1"),
        ("item", [0, 0.5, 2, 0], "item in .* whole numbers from 0 on, got 0.5"),
        ("movie_id", [1, 2, 3], "movie_id in .* 4 records, got 3"),
        ("value", [1, np.inf, 2, 3], "value in .*, got inf in record 1"),
        ("known", [1, 0, 1, 1], "known in .* must be a bool array"),
        ("ncf_split", [0, 2], "ncf_split in .* 4 records, got 2"),
        ("ncf_split", [0, 0, 2, 0], "must hold out one rating of every user"),
        ("ncf_test_negatives", [[4], [1]], "ncf_test_negatives in .* must be from 0 to 3, or -1 for none, got 4"),
        ("timestamp", None, "has no array 'timestamp'"),
        ("ncf_split", None, "has no array 'ncf_split'"),
        ("value", np.array([1, 2, 3, None]), "not a whole and valid .npz file"),
    ],
)
def test_a_bad_npz_is_said_to_be_one(folder, name, array, error):
    arrays = {key: value for key, value in {**NPZ, **NCF, name: array}.items() if value is not None}
    np.savez(folder / "ml-1m.npz", **arrays)
    with pytest.raises((TypeError, ValueError), match=error):
        movielens_split("1m", "ncf")


@pytest.mark.small
@pytest.mark.parametrize("error", [TimeoutError("of a watchdog"), OSError(errno.EIO, "Input/output error")])
def test_an_error_of_the_disk_or_a_handler_says_nothing_about_the_file(folder, monkeypatch, error):
    def load(*args, **keywords):
        raise error

    np.savez(folder / "ml-1m.npz", **NPZ)
    monkeypatch.setattr(npz_files.np, "load", load)
    with pytest.raises(OSError, match=r"watchdog|Input") as caught:
        movielens("1m")
    assert caught.value is error


@pytest.mark.small
def test_fractions_are_no_ids(folder):
    write_archive(folder, "100k", [(1.5, 2, 3, 4)])
    with pytest.raises(ValueError, match=r"user in u.data in .* whole numbers from 0 on, got 1.5"):
        movielens("100k")


def test_the_local_100k(monkeypatch):
    monkeypatch.setenv("LFM_NP_DATA", str(require("data", "ml-100k.npz").parent))
    data = movielens("100k")
    assert data.shape == (943, 1682)
    assert data.matrix.nnz == 100_000
    assert data.matrix[data.rows_of(196)[0], data.columns_of(242)[0]] == 3
    assert data.matrix.data.mean(dtype=np.float64) == pytest.approx(3.52986)
    assert movielens_records("100k").users[:3].tolist() == [196, 186, 22]
    for split in ("u1", "u5"):
        train, test, _ = movielens_split("100k", split)
        assert (train.matrix.nnz, test.matrix.nnz) == (80_000, 20_000)
    assert np.all(np.diff(movielens_split("100k", "ua").test.matrix.indptr) == 10)


def test_the_local_1m(monkeypatch):
    path = require("data", "ml-1m.npz")
    monkeypatch.setenv("LFM_NP_DATA", str(path.parent))
    data = movielens("1m")
    assert data.shape == (6040, 3706)
    assert data.matrix.nnz == 1_000_209
    with np.load(path) as arrays:
        known = arrays["known"].sum()
    assert (~np.isnan(data.matrix.data)).sum() == (~np.isnan(data.timestamps)).sum() == known
    train, test, negatives = movielens_split("1m", "ncf")
    assert test.matrix.nnz == 6040
    assert train.matrix.nnz == 1_000_209 - 6040
    assert negatives.shape == (6040, 99)
    assert (negatives == -1).sum() == 156


# ---- download -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A GroupLens of our own on this machine, an empty cache folder, and no local data."""
    site = tmp_path / "site"
    site.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        requests = 0

        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(site))

        def do_GET(self):
            Handler.requests += 1
            super().do_GET()

        def log_message(self, *arguments):
            pass

    monkeypatch.delenv("LFM_NP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        monkeypatch.setattr(grouplens, "_SERVER", f"http://127.0.0.1:{running.server_port}")
        yield site, Handler
        running.shutdown()
        thread.join()


@pytest.mark.small
def test_download_once_and_verify(server):
    require("pooch")
    site, handler = server
    path = write_archive(site, "latest-small")
    with pytest.raises(ValueError, match=r"movielens\(…, checksum=…\)"):
        movielens("latest-small")
    checksum = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert movielens("latest-small", checksum=checksum).shape == (3, 3)
    before = handler.requests
    assert movielens("latest-small", checksum=checksum).shape == (3, 3)
    assert handler.requests == before
    with pytest.raises(OSError, match=r"ml-1m\.zip yourself and put it into the folder .* LFM_NP_DATA"):
        movielens("1m")


@pytest.mark.small
def test_every_set_has_a_checksum():
    assert set(grouplens._CHECKSUMS) == set(TEXT)
    for checksum in grouplens._CHECKSUMS.values():
        kind, digest = checksum.split(":")
        assert kind == "md5"
        assert len(digest) == 32
        assert set(digest) <= set("0123456789abcdef")


@pytest.mark.small
def test_without_pooch_the_extra_is_named(monkeypatch):
    monkeypatch.delenv("LFM_NP_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"pip install 'lfm_np\[io\]'"):
        lfm_np.datasets.movielens("1m")
