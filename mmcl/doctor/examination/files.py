"""The check of a run's files: which are cut short, missing or not of their kind."""

from __future__ import annotations

from collections.abc import Sequence

from mmcl.doctor.examination.subject import Damage, Subject
from mmcl.doctor.finding import Finding

SHOWN = 3  # files that are named one by one


def damaged(subject: Subject) -> list[Finding]:
    """Files that are not what they should be."""
    return damaged_files(subject.damages, run=str(subject.recipe.run_dir))


def damaged_files(damages: Sequence[Damage], *, run: str) -> list[Finding]:
    """One finding for all damaged files, the gravest named first.

    Args:
        damages: what was found of the run's files.
        run: its folder, for the next step.

    Example:
        >>> found = damaged_files([Damage("metrics.jsonl", "nothing", "the records of 40 steps")], run="runs/x")
        >>> found[0].evidence
        'metrics.jsonl holds nothing, not the records of 40 steps.'
    """
    if not damages:
        return []
    ordered = sorted(damages, key=lambda damage: not damage.is_grave)
    more = f"; and {len(ordered) - SHOWN} further files" if len(ordered) > SHOWN else ""
    return [
        Finding(
            "damaged_file",
            "fault" if ordered[0].is_grave else "warning",
            "; ".join(map(str, ordered[:SHOWN])) + more + ".",
            float(len(ordered)),
            0.0,
            _next_step([damage.path for damage in ordered], run),
        )
    ]


def _next_step(paths: Sequence[str], run: str) -> str:
    path = paths[0]
    copy = f"Copy {path} again from where the run was trained, and see that the disk is not full"
    if path.startswith("checkpoints/") and not any(other.startswith("model") for other in paths):
        folder = "/".join(path.split("/")[:2])
        return (
            f"{copy}; where that is all there is, remove {run}/{folder} and go on from the one before (--resume), or "
            f"start from what was kept (model.init_from={run}/model)."
        )
    if path.startswith("model"):
        return f"{copy}; where that is all there is, train again: mmcl train {run}/config.yaml run.dir=FOLDER."
    if path == "metrics.jsonl":
        return f"{copy}; model and checkpoints do not depend on it (mmcl eval retrieval {run} judges them)."
    return f"{copy}."
