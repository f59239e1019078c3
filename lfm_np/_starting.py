"""Ctrl-C while the command line is still being imported ends it with status 130, and without a traceback.

`lfm_np` imports this first. Where it is not the command that starts, nothing is changed.
"""

import itertools
import os
import signal
import sys
import threading

_SCRIPTS = {"lfm-np", "lfm-np.exe", "lfm-np-script.py"}


def _is_command() -> bool:
    """Whether this process was started as ``lfm-np`` or ``python -m lfm_np``."""
    if os.path.basename(sys.argv[0] if sys.argv else "") in _SCRIPTS:
        return True
    pairs = itertools.pairwise(getattr(sys, "orig_argv", []))
    return sys.argv[:1] == ["-m"] and ("-m", "lfm_np") in pairs  # argv has "-m" while it is looked for


def _leave(signum: object, frame: object) -> None:
    os._exit(130)


def started() -> None:
    """From here on Ctrl-C is KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    and _is_command()
):
    signal.signal(signal.SIGINT, _leave)
