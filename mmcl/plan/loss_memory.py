"""What the loss keeps for its backward pass, and how that grows with the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.batch import Batch
from mmcl.config import Recipe
from mmcl.training.memory import BACKWARD_FACTOR, bytes_a_row
from mmcl.training.trainer import Trainer

ROWS = 128  # at most, of which half and all are tried


def loss_memory(trainer: Trainer, recipe: Recipe) -> dict[str, float]:
    """Bytes of a step's memory by counting what autograd keeps, beside what the process is seen to take.

    Args:
        trainer: built, on the device.
        recipe: its batch size is that of the measurement.

    Returns:
        ``per_row`` of the encoders, ``per_row_squared`` of the loss (0 where it is computed in tiles), and
        ``inputs_per_row`` of the batch's own tensors and the embeddings, which gradient caching keeps of every row.
    """
    rows = min(ROWS, recipe.train.batch_size, len(trainer.reader))
    batch = trainer.reader.__getitems__(list(range(rows)))
    objective, device = trainer.objective, trainer.accelerator.device
    batch = batch.to(device)
    kept = [_kept_by_loss(trainer, part) for part in (batch.split(max(1, -(-rows // 2)))[0], batch)]
    half, whole = -(-rows // 2), rows
    squared = 0.0
    if whole > half > 1:
        # a n + b n^2 through both
        squared = (kept[1] / whole - kept[0] / half) / (whole - half)
    squared = squared if squared >= 1.0 else 0.0  # less than a byte a pair of rows is no matrix
    with trainer.accelerator.autocast():
        try:
            per_row = BACKWARD_FACTOR * bytes_a_row(objective, batch)
        except (RuntimeError, ValueError):  # a batch norm that refuses so few rows
            per_row = 0.0
    inputs = sum(value.nbytes for part in (batch.image, batch.text) for value in part.values()) / max(1, len(batch))
    embeddings = 4 * 4 * 2 * objective.model.embedding_dim  # both sides, their gradients and the loss's copies
    return {"per_row": per_row, "per_row_squared": BACKWARD_FACTOR * squared, "inputs_per_row": inputs + embeddings}


def _kept_by_loss(trainer: Trainer, batch: Batch) -> int:
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.no_grad():
        embeddings = trainer.objective(batch)
    for name in ("image", "text"):
        getattr(embeddings, name).requires_grad_(True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        held = trainer.objective.loss(embeddings)
    del held
    return sum(sizes.values())
