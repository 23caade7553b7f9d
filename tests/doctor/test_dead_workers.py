"""What is said of a reader process that died."""

from __future__ import annotations

import re

import pytest

from mmcl.doctor.live.dead_workers import death_of_worker

TORCH = "DataLoader worker (pid 7) is killed by signal: {}. "


@pytest.mark.parametrize(
    ("reason", "codes", "said", "step"),
    [
        (TORCH.format("Killed"), [], "SIGKILL: the system kills so where memory has run out", "fewer data.workers"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", [None, -9], "SIGKILL: the system kills", "data.workers"),
        (TORCH.format("Bus error"), [], r"SIGBUS: shared memory \(/dev/shm\).* was full", "--shm-size"),
        (TORCH.format("Segmentation fault"), [], "SIGSEGV: a library that reads images crashed", "data.workers=0"),
        (TORCH.format("Terminated"), [], "SIGTERM: somebody", "--resume"),
        (TORCH.format("Unknown signal 42"), [], "42: nothing more is known", "data.workers"),
        ("it exited unexpectedly", [0, 3], "ended with exit code 3", "mmcl data audit"),
        ("Connection reset by peer", [], "nothing says of what; the usual cause is memory", "data.prefetch"),
    ],
)
def test_the_signal_and_its_usual_cause(reason: str, codes: list[int | None], said: str, step: str) -> None:
    finding = death_of_worker(reason, codes)
    assert (finding.cause, finding.severity) == ("dead_workers", "fault")
    assert re.search(said, finding.evidence), finding.evidence
    assert step in finding.next_step


def test_what_torch_names_counts_before_the_exit_codes() -> None:
    assert "SIGSEGV" in death_of_worker(TORCH.format("Segmentation fault"), [-15, None]).evidence
