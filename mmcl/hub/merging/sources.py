"""What is merged, by its name: any MODEL with two towers, or a checkpoint of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.opening.opening import open_dual_encoder
from mmcl.training.checkpoint import WEIGHTS

_PREFIX = "model."  # of the dual encoder among an objective's weights


def open_source(reference: str | Path) -> DualEncoder:
    """Open a model to be merged.

    Args:
        reference: any MODEL that `open_dual_encoder` opens; or ``runs/NAME/checkpoints/step_N`` (or ``last``), the
            weights of that step in the architecture of ``runs/NAME/model``. They are the trained weights themselves,
            not their moving average.

    Raises:
        ConfigError: there is no such model; the checkpoint's run has no model to take the architecture from; its
            weights do not fit.
    """
    folder = Path(reference).expanduser()
    if not (folder / WEIGHTS).is_file():
        return open_dual_encoder(reference)
    run = folder.absolute().parents[1]
    if not (run / "model").is_dir():
        raise ConfigError(
            f"{folder} is a checkpoint, whose architecture is read from {run / 'model'}, and there is none; keep the "
            f"checkpoint in its run's folder, and let the run save a model first"
        )
    model = open_dual_encoder(run / "model")
    return _with_checkpoint(model, folder / WEIGHTS)


def _with_checkpoint(model: DualEncoder, file: Path) -> DualEncoder:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); name another checkpoint") from error
    state = {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_PREFIX)}
    own = model.state_dict()
    for name in [*own, *state]:
        shapes = [tuple(held[name].shape) if name in held else "missing" for held in (own, state)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"{file} does not fit its run's model: {name} is {shapes[0]} there and {shapes[1]} in the checkpoint"
            )
    model.load_state_dict(state)
    return model.eval()


class SourceModels(Sequence[DualEncoder]):
    """Models that are opened each time they are asked for, so that one at a time is in memory.

    Args:
        references: see `open_source`.
    """

    def __init__(self, references: Sequence[str]) -> None:
        self.references = list(references)

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, row: int) -> DualEncoder:  # type: ignore[override]
        return open_source(self.references[row])
