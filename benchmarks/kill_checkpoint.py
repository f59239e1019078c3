"""Kill -9 while files are written, and fill the disk: is every file whole, and of a state that there was?

    python -m benchmarks.kill_checkpoint --kills 200

Writers are forked, so that all moments are moments of writing and not of imports. A checkpoint is compared, bit for
bit, with the state that a run without a break has after as many sweeps. The disk is a tmpfs of 512 KiB, which only root
can mount; others go without that row.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import itertools
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

import lfm_np
from lfm_np import checkpoint, persistence

LATEST = {"als": 0.1, "sgd": 0.4, "Factors.save": 0.1}  # seconds of a writer at most; sgd first compiles its loss


def matrix():
    return lfm_np.to_csr(lfm_np.datasets.make_interactions(2000, 100, 6, random_state=0), shape=(2000, 100))


def fit(name, X, sweeps, path):
    options = {"factors": 16, "random_state": 0, "num_threads": 1, "checkpoint": path}
    if name == "als":
        return lfm_np.als(X, iterations=sweeps, **options)
    return lfm_np.sgd(X, epochs=sweeps, schedule="adagrad", **options)


def digest(parts):
    return hashlib.sha256(b"".join(parts[name].tobytes() for name in sorted(parts))).hexdigest()


# ---- what is written ------------------------------------------------------------------------------------------------


class Fit:
    """A checkpoint after every sweep."""

    def __init__(self, name):
        self.name, self.X, self.seen = name, matrix(), []

    def start(self, path):
        fit(self.name, self.X, 1, path)

    def write(self, path):
        fit(self.name, self.X, 10**6, path)

    def read(self, path):
        parts, model = persistence.load(path, checkpoint.FORMAT)
        self.seen.append((len(model["history"]), digest(parts)))

    def verify(self):
        """Whether the states seen follow one another and are those of a run without a break."""
        expected = {}

        def note(path, kind, tensors, model):
            expected[len(model["history"])] = digest(tensors)

        sweeps = [sweep for sweep, _ in self.seen]
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(persistence, "save", note):
            fit(self.name, self.X, max(sweeps), Path(folder, "reference"))
        return sweeps == sorted(sweeps) and all(expected[sweep] == found for sweep, found in self.seen)


class Save:
    """`Factors.save` of one model after another; every number in the i-th is i."""

    name = "Factors.save"

    def __init__(self):
        self.seen = [0]

    def start(self, path):
        self._model(0).save(path)

    def write(self, path):
        for i in itertools.count(self.seen[-1]):
            self._model(i).save(path)

    def _model(self, i):
        return lfm_np.Factors(np.full((4000, 16), float(i)), np.full((50, 16), float(i)))

    def read(self, path):
        factors = lfm_np.Factors.load(path)
        values = {*factors.user_factors.flat, *factors.item_factors.flat}
        self.seen.append(int(values.pop()) if len(values) == 1 else -1)

    def verify(self):
        return self.seen == sorted(self.seen)


# ---- what happens to it ---------------------------------------------------------------------------------------------


def kill(job, kills, rng, how=signal.SIGKILL):
    """Outcomes of ``kills`` writers, each ended at a random moment."""
    failures, writing, most = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        job.start(path)
        for _ in range(kills):
            process = os.fork()
            if process == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                try:
                    job.write(path)
                finally:
                    os._exit(1)
            time.sleep(LATEST[job.name] * rng.random())
            os.kill(process, how)
            if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != -how:
                failures.append("the writer ended by itself")
            others = set(os.listdir(folder)) - {"file"}
            writing, most = writing + bool(others), max(most, len(others))
            try:
                job.read(path)
            except (OSError, ValueError) as error:
                failures.append(str(error))
    if not job.verify():
        failures.append("a state that never was")
    counts = {"runs": kills, "while writing": writing, "temp files": most, "states": len(set(job.seen))}
    return {"what": job.name, "how": how.name} | counts | {"failures": failures}


def fill(step=4096):
    """Save with every amount of free space on a small file system; None where it cannot be mounted."""
    failures, refused, runs = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        try:
            path, ballast = os.path.join(folder, "file"), os.path.join(folder, "ballast")
            models = [lfm_np.Factors(np.full((1000, 16), float(i)), np.ones((50, 16))) for i in (0, 1)]
            for free in range(0, 256 << 10, step):
                Path(ballast).write_bytes(b"")
                models[0].save(path)
                room = os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize
                Path(ballast).write_bytes(bytes(room - free))
                runs, expected = runs + 1, 1
                try:
                    models[1].save(path)
                except OSError as error:
                    refused, expected = refused + 1, 0
                    if error.errno != errno.ENOSPC or error.filename != path:
                        failures.append(str(error))
                if lfm_np.Factors.load(path).user_factors[0, 0] != expected or len(os.listdir(folder)) != 2:
                    failures.append(f"with {free} bytes free")
        finally:
            subprocess.run(["umount", folder], check=True)
    return {"what": "Factors.save", "how": "full disk", "runs": runs, "refused": refused, "failures": failures}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    for name in ("als", "sgd"):
        fit(name, matrix(), 2, None)  # compiled here, and not in every child
    jobs = [(Fit("als"), signal.SIGKILL), (Fit("sgd"), signal.SIGKILL), (Save(), signal.SIGKILL)]
    jobs += [(Fit("als"), signal.SIGTERM), (Save(), signal.SIGTERM)]
    rows = [kill(job, options.kills, rng, how) for job, how in jobs] + [fill()]
    for row in filter(None, rows):
        print(json.dumps(row))
    return any(row["failures"] for row in rows if row)


if __name__ == "__main__":
    raise SystemExit(main())
