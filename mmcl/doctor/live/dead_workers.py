"""What the death of a reader process says: the signal that ended it, and the usual cause of that."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from mmcl.doctor.finding import Finding

# torch names a signal in its own words: "DataLoader worker (pid 7) is killed by signal: Killed."
_BY_SIGNAL = re.compile(r"killed by signal: ([A-Za-z0-9 -]+)")
_WORDS = {
    "killed": signal.SIGKILL,
    "bus error": signal.SIGBUS,
    "segmentation fault": signal.SIGSEGV,
    "aborted": signal.SIGABRT,
    "terminated": signal.SIGTERM,
    "floating point exception": signal.SIGFPE,
    "illegal instruction": signal.SIGILL,
}
_LESS = (
    "Set fewer data.workers, a smaller data.prefetch or smaller batches; data.workers=0 reads in the training itself."
)
_CRASHED = (
    "a library that reads images crashed",
    "Set data.workers=0 to see at which row, and mmcl data audit to find files that are damaged.",
)
# signal -> what nearly always sends it, and what to do.
_CAUSES: dict[int, tuple[str, str]] = {
    signal.SIGKILL: ("the system kills so where memory has run out", _LESS),
    signal.SIGBUS: (
        "shared memory (/dev/shm), through which batches travel, was full",
        "Enlarge /dev/shm (a container's --shm-size), or set fewer data.workers, a smaller data.prefetch or "
        "smaller batches.",
    ),
    signal.SIGSEGV: _CRASHED,
    signal.SIGABRT: _CRASHED,
    signal.SIGILL: _CRASHED,
    signal.SIGFPE: _CRASHED,
    signal.SIGTERM: ("somebody, or a batch system, ended it", "Start the training again with --resume."),
}


def death_of_worker(reason: str, exit_codes: Sequence[int | None] = ()) -> Finding:
    """The finding of a reader process's death.

    Args:
        reason: what was said when it was noticed, such as torch's words.
        exit_codes: of the workers that have ended; negative: the signal that ended one. Where the reason names a
            signal, that one counts.
    """
    number = _signal_in(reason)
    died = [code for code in exit_codes if code]
    if number is None and died:
        number = next((-code for code in died if code < 0), None)
    if number is not None:
        cause, step = _CAUSES.get(number, ("nothing more is known", _LESS))
        evidence = f"A reader process was ended by {_name(number)}: {cause}."
    elif died:
        evidence, step = f"A reader process ended with exit code {died[0]}.", _CRASHED[1]
    else:
        evidence, step = "A reader process died, and nothing says of what; the usual cause is memory.", _LESS
    return Finding("dead_workers", "fault", evidence, float(max(1, len(died))), 1.0, step)


def _signal_in(reason: str) -> int | None:
    found = _BY_SIGNAL.search(reason)
    if found is None:
        return None
    word = found.group(1).strip().rstrip(".").lower()
    by_number = re.search(r"(\d+)$", word)  # "Unknown signal 42", "Real-time signal 3"
    return _WORDS.get(word, int(by_number.group(1)) if by_number else None)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
