"""Ctrl-C while lfm_np is imported: only the command line takes it over."""

import subprocess
import sys

import pytest

SHOW = "import signal, lfm_np; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"


def test_an_import_leaves_ctrl_c_alone():
    assert subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True).stdout == "True\n"


@pytest.mark.parametrize("name", ["lfm-np", "other"])
def test_the_command_takes_it_until_it_has_started(name):
    code = (
        f"import sys; sys.argv[0] = '/bin/{name}'; import signal; from lfm_np import _starting\n"
        "print(signal.getsignal(signal.SIGINT) is _starting._leave)\n"
        "_starting.started(); print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert said == [str(name == "lfm-np"), "True"]
