"""Work in a forked child, which leaves at once and ends when it hangs."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

import pytest

#: Marks a test that forks this very process.
forks: Any = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def in_a_fork(work: Callable[[], object]) -> int:
    """Run something in a forked child; its exit status, 0 if nothing was raised."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(100)  # a child that hangs on a lock of its parent's ends, and fails
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
