"""The finding of a training that had to be stopped: it diverged, or met what is not finite."""

from __future__ import annotations

from mmcl.doctor.finding import Finding
from mmcl.doctor.live.not_finite import Source
from mmcl.doctor.live.stuck import LARGE_UPDATE


def finding_of_stop(
    complaint: str, *, loss: float, source: Source | None, largest_update: float, learning_rate: float
) -> Finding:
    """Why a training was stopped.

    Args:
        complaint: what was said of it, a sentence.
        loss: of the step.
        source: of what is not finite; None: all was finite, and the loss had diverged.
        largest_update: the largest share of themselves that one step changed the weights by, as far as was looked.
        learning_rate: the recipe's.

    Returns:
        ``learning_rate_too_high`` where the loss had diverged, a weight is not finite or steps were that large;
        ``not_a_number`` otherwise.
    """
    complaint = complaint[:1].upper() + complaint[1:]
    lower = f"Set optimizer.learning_rate={learning_rate / 30:.1g}."
    if source is None:
        return Finding("learning_rate_too_high", "fault", complaint, loss, loss, lower)
    evidence = f"{complaint} {source.sentence}"
    if source.kind != "input" and (source.kind == "weight" or largest_update >= LARGE_UPDATE):
        if largest_update > 0:
            evidence += f" One step changed the weights by up to {100 * largest_update:.3g} % of themselves."
        return Finding("learning_rate_too_high", "fault", evidence, largest_update, LARGE_UPDATE, lower)
    steps = {
        "input": "Look at the rows listed in stopped_batch.json: their image or tokens hold what is no number.",
        "loss": "Look at loss and model.logit_scale, and set train.precision=fp32.",
    }
    step = steps.get(source.kind, "Set train.precision=fp32, train.max_grad_norm=1.0 and a lower learning rate.")
    return Finding("not_a_number", "fault", evidence, loss, 0.0, step)
