"""What the tests of promptness excuse, and what they do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests.faults.stalls import Times


def test_who_waits_is_not_excused():
    times, began = Times(), time.monotonic()
    time.sleep(0.4)
    times.note(began)
    (seconds,) = times.seconds()
    assert seconds > 0.3


def test_a_process_that_stood_still_is_excused():
    script = "import os, signal, time; time.sleep(0.2); os.kill({0}, {1}); time.sleep(0.5); os.kill({0}, {2})"
    script = script.format(os.getpid(), int(signal.SIGSTOP), int(signal.SIGCONT))
    times, began = Times(), time.monotonic()
    subprocess.run([sys.executable, "-c", script], check=True)
    times.note(began)
    (seconds,) = times.seconds()
    assert 0 < seconds < time.monotonic() - began - 0.4
