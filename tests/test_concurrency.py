"""Threads, processes, forks and exits around fits and recommendations: no abort, no hang, equal bits.

Every scenario is a script of its own process with a time limit: what hangs or aborts fails here and not the whole run.
"""

import subprocess
import sys
import textwrap

import pytest
from optional import require

SECONDS = 240  # of a scenario at most, on a loaded machine

# The four calls, and a digest of what they give. Kernels come from the cache on disk.
COMMON = """
import concurrent.futures, copy, hashlib, multiprocessing, os, pickle, signal, sys, threading, time
import numpy as np
import lfm_np

X = lfm_np.to_csr(lfm_np.datasets.make_interactions(400, 60, 6, random_state=0), shape=(400, 60))

def als(threads, **options):
    return lfm_np.als(X, **{"factors": 8, "iterations": 3, "random_state": 0, "num_threads": threads} | options)

def sgd(threads, **options):
    return lfm_np.sgd(X, **{"factors": 8, "epochs": 3, "random_state": 0, "num_threads": threads} | options)

def digest(number):
    "Of fits and recommendations, with a number of threads that depends on ``number``."
    threads = number % 4 + 1
    factors = als(threads) if number % 2 else sgd(threads)
    ids, scores = factors.recommend(np.arange(400), N=5, seen=X, num_threads=threads)
    arrays = factors.user_factors, factors.item_factors, ids, scores
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

def in_child(work, seconds=60):
    "Fork; what ``work()`` returns there, or None if it hangs."
    pid = os.fork()
    if not pid:
        signal.alarm(seconds)
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(2)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFEXITED(status), f"the child died of signal {os.WTERMSIG(status)}"
    return os.WEXITSTATUS(status) == 0
"""

SCENARIOS = {
    "a program whose threads have small stacks": """
        sizes, start = [], threading.Thread.start
        def noted(self):
            sizes.append(threading.stack_size())
            threading.stack_size(sizes[-1])  # to ask sets it to 0
            start(self)
        threading.Thread.start = noted
        for size in (0, 32768, 1 << 24):
            threading.stack_size(size)
            with lfm_np.kernels.jit.Pool(3) as pool:
                pool.run(lambda block, worker: time.sleep(0.01), 8)
            assert threading.stack_size() == size
        assert sizes == [0, 0, 1 << 23, 1 << 23, 1 << 24, 1 << 24]  # of less, LLVM would end the process
    """,
    "eight threads, nested pools, copies": """
        expected = [digest(0), digest(1)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(digest, range(16)))
        assert found == expected * 8
        def outer(number):
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                return list(pool.map(digest, range(2)))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert list(pool.map(outer, range(4))) == [expected] * 4
        inner = []
        als(2, callback=lambda record, factors: inner.append(digest(1)))
        assert inner == [expected[1]] * 3
        factors = als(2)
        factors.recommend([0])
        expected = factors.recommend(np.arange(400), N=5).ids
        for clone in (copy.deepcopy(factors), copy.copy(factors), pickle.loads(pickle.dumps(factors))):
            assert (clone.recommend(np.arange(400), N=5).ids == expected).all()
            assert not clone.user_factors.flags.writeable and clone.history == factors.history
    """,
    "forks before and after fits, and a daemonic pool of them": """
        assert in_child(lambda: digest(3) and digest(2))  # nothing has run here
        expected = [digest(0), digest(1)]
        assert in_child(lambda: [digest(0), digest(1)] == expected)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(digest, range(6)) == expected * 3
    """,
    "spawn": """
        import multiprocessing.spawn
        expected = als(2).item_factors
        with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            calls = [pool.submit(lfm_np.als, X, factors=8, iterations=3, random_state=0, num_threads=n) for n in (1, 3)]
            for call in calls:
                assert (call.result().item_factors == expected).all()
    """,
    "joblib, threads and processes, and the one in the other": """
        import joblib
        def together(backend, call=digest):
            return joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(call)(number) for number in range(2))
        def nested(number):
            return together("threading")
        expected = [digest(0), digest(1)]
        assert together("threading") == expected
        assert together("loky") == expected
        assert together("loky", nested) == [expected] * 2
        joblib.externals.loky.get_reusable_executor().shutdown()
    """,
    "joblib's processes, and factors that are mapped": """
        import joblib, tempfile
        def looked_at(factors):
            return factors.item_factors.tobytes()
        def fitted(folder):
            stored = lfm_np.StoredMatrix(folder + "/matrix", factors_in=folder)
            return lfm_np.als(stored, factors=8, iterations=2, random_state=0, num_threads=1)
        with tempfile.TemporaryDirectory() as folder, joblib.Parallel(n_jobs=2, backend="loky") as pool:
            factors = als(1, iterations=2)
            factors.save(folder + "/model")
            loaded = lfm_np.Factors.load(folder + "/model", mmap=True)
            sgd(1).save(folder + "/model")  # another one, of the same size
            lfm_np.StoredMatrix.from_matrix(X, folder + "/matrix")  # and what has no name
            for found in pool(joblib.delayed(looked_at)(mapped) for mapped in (loaded, fitted(folder))):
                assert found == looked_at(factors)
            assert looked_at(*pool([joblib.delayed(fitted)(folder)])) == looked_at(factors)
        joblib.externals.loky.get_reusable_executor().shutdown()
    """,
    "forks during fits of other threads": """
        expected, over = [digest(0), digest(1)], threading.Event()
        def fits():
            while not over.is_set():
                assert [digest(2), digest(3)] == expected
        threads = [threading.Thread(target=fits) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(6):
            time.sleep(0.05)
            assert in_child(lambda: digest(number) == expected[number % 2])
        over.set()
        for thread in threads:
            thread.join()
    """,
    "a fork while another thread compiles and another looks at factors": """
        from numba.core.compiler_lock import global_compiler_lock
        from lfm_np import factors as module
        inside, go, real = threading.Event(), threading.Event(), module.build_index
        def compiles():
            with global_compiler_lock:
                inside.set()
                time.sleep(1.0)
        def slow(*args):
            inside.set()
            go.wait()
            return real(*args)
        model = als(1)
        copied = copy.deepcopy(model)
        module.build_index = slow
        looks = threading.Thread(target=lambda: model.recommend([0]), daemon=True)
        looks.start()
        inside.wait()
        module.build_index = real
        assert in_child(lambda: len(copied.recommend([0]).ids) == 1)
        go.set()
        looks.join()
        inside.clear()
        threading.Thread(target=compiles).start()
        inside.wait()
        assert in_child(lambda: bool(digest(1)))  # loads and compiles kernels
    """,
    "a fork while another thread frees compiled code": """
        import llvmlite.binding
        inside = threading.Event()
        def frees():
            with llvmlite.binding.ffi.lib._lock:  # as every call of LLVM does
                inside.set()
                time.sleep(1.0)
        threading.Thread(target=frees).start()
        inside.wait()
        assert in_child(lambda: bool(digest(1)), seconds=30)
    """,
    "a fork by a thread while the main one holds signals": """
        from lfm_np.signals import signals_held
        handled, children = [], []
        signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(os.getpid()))
        def child():
            os.kill(os.getpid(), signal.SIGUSR1)
            return handled == [os.getpid()]
        with signals_held():
            thread = threading.Thread(target=lambda: children.append(in_child(child)))
            thread.start()
            thread.join()
            os.kill(os.getpid(), signal.SIGUSR1)
            assert not handled
        assert children == [True] and handled == [os.getpid()]
    """,
    "signals while a fork waits for a compiler": """
        from numba.core.compiler_lock import global_compiler_lock
        inside, handled = threading.Event(), []
        sys.unraisablehook = lambda unraisable: None  # Python reports, and loses, what is raised while it forks
        def handler(number, frame):
            handled.append(os.getpid())
            raise TimeoutError
        signal.signal(signal.SIGUSR1, handler)
        def compiles(signals):
            with global_compiler_lock:
                inside.set()
                time.sleep(0.5)
                for number in range(signals):
                    os.kill(os.getpid(), signal.SIGUSR1)
                    time.sleep(0.5)
        for signals in 1, 2:  # held until the fork is done; a second one is not, and ends the wait
            inside.clear()
            thread = threading.Thread(target=compiles, args=(signals,))
            thread.start()
            inside.wait()
            assert in_child(lambda: len(handled) == 2 * (signals == 2) and (signals == 2 or bool(digest(1))))
            thread.join()
            assert handled == [os.getpid()] * signals and signal.getsignal(signal.SIGUSR1) is handler
            assert digest(1) and in_child(lambda: bool(digest(1)))  # no lock is left
    """,
    "the fit goes on in a fork of its callback": """
        expected = digest(1)
        def callback(record, factors):
            if record["iteration"] == 1:
                pids.append(os.fork())
                if not pids[0]:
                    signal.alarm(60)
        pids = []
        factors = als(2, callback=callback)
        same = (factors.item_factors == als(2).item_factors).all() and digest(1) == expected
        if not pids[0]:
            os._exit(0 if same else 1)
        assert same and os.waitpid(pids[0], 0)[1] == 0
    """,
    "mapped factors, which a fork of the callback shares": """
        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            stored = lfm_np.StoredMatrix.from_matrix(X, folder + "/matrix")
            stored = lfm_np.StoredMatrix(stored.folder, factors_in=folder)
            asked = {"factors": 8, "iterations": 6, "random_state": 0, "num_threads": 1}
            expected, pids = lfm_np.als(stored, **asked), []
            def callback(record, factors):
                if record["iteration"] == 2:
                    looked_at = factors.item_factors.copy()
                    pids.append(os.fork())
                    if not pids[0]:
                        signal.alarm(60)
                        assert (factors.item_factors == looked_at).all()
                elif record["iteration"] == 3 and pids[0]:
                    pids.append(os.waitpid(pids[0], 0)[1])
            try:
                factors = lfm_np.als(stored, callback=callback, **asked)
            except RuntimeError as error:
                os._exit(0 if not pids[0] and "factors_in" in str(error) else 1)
            if not pids[0]:
                os._exit(1)
            assert pids[1] == 0
            assert (factors.user_factors == expected.user_factors).all()
            assert (factors.item_factors == expected.item_factors).all()
    """,
    "settings are as before": """
        import numba
        from threadpoolctl import threadpool_info, threadpool_limits
        def blas():
            return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
        def settings():
            state = np.random.get_state()
            names = sorted(thread.name for thread in threading.enumerate())
            numba_has = numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS, numba.config.THREADING_LAYER
            return state[1].tobytes(), state[2:], blas(), numba_has, np.geterr(), names, signal.getsignal(signal.SIGINT)
        assert als(2, progress=True) and digest(0)
        with threadpool_limits(2, user_api="blas"):
            numba.set_num_threads(1)
            before, inside = settings(), []
            als(2, progress=True, callback=lambda *_: inside.append(blas()))
            assert all(1 in found for found in inside)
            sgd(3)
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                list(pool.map(digest, range(8)))
            try:
                als(2, callback=lambda *_: 1 / 0)
            except ZeroDivisionError:
                pass
            else:
                raise AssertionError("the callback's error is lost")
            assert settings() == before

            # Two fits overlap, and what began first ends first, in a thread that lives on; a fork within sees no limit.
            inside, go = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]
            def wait(number):
                als(2, iterations=1, callback=lambda *_: inside[number].set() or go[number].wait())
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                fits = []
                for number in range(2):
                    fits.append(pool.submit(wait, number))
                    inside[number].wait()
                assert 1 in blas()
                assert in_child(lambda: blas() == before[2] and digest(1) and blas() == before[2])
                for number in range(2):
                    go[number].set()
                    fits[number].result()
                assert blas() == before[2]
            assert settings() == before
    """,
    "no thread can be started": """
        expected = digest(1), digest(2)
        def refuse(self):
            raise RuntimeError("can't start new thread")
        threading.Thread.start = refuse
        assert (digest(1), digest(2)) == expected
    """,
    "a thread fits while the main thread ends, and another fit at exit": """
        import atexit
        expected = digest(3)
        def work():
            time.sleep(0.2)
            assert digest(3) == expected
        threading.Thread(target=work).start()
        atexit.register(lambda: print("done" if digest(3) == expected else "other bits", flush=True))
    """,
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name, tmp_path):
    if "import joblib" in SCENARIOS[name]:
        require("joblib")
    script = tmp_path / "script.py"  # a file, which processes that are spawned read again
    script.write_text(
        COMMON + "\nif __name__ == '__main__':\n" + textwrap.indent(textwrap.dedent(SCENARIOS[name]), "    ")
    )
    process = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=SECONDS)
    assert process.returncode == 0, f"exit {process.returncode}\n{process.stdout}{process.stderr}"
    assert "Traceback" not in process.stderr
    assert process.stdout == "done\n" * ("print(" in SCENARIOS[name])


EMBEDDED = """
import _thread, sys, time
assert "threading" not in sys.modules
found = []

def work():
    try:
        import lfm_np
        X = lfm_np.to_csr([(0, 1), (1, 0), (1, 1)], shape=(2, 2))
        found.append(lfm_np.als(X, factors=2, iterations=1))
    except BaseException as error:
        found.append(error)

_thread.start_new_thread(work, ())
while not found:
    time.sleep(0.05)
print(found)
"""


def test_a_thread_that_only_seems_to_be_the_main_one():
    """Before Python 3.13 the one that imports threading first, as where another language calls Python."""
    command = [sys.executable, "-S", "-c", "import sys; sys.path[:] = " + repr(sys.path) + EMBEDDED]
    found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert found.stdout.startswith("[Factors("), found.stdout + found.stderr
