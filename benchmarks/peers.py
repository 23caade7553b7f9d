"""The losses that are compared: mmcl's, plain torch with one product, and other packages', each as it is best called.

All are called as ``loss(image, text, scale, bias) -> ()``, with the scale and the bias as tensors.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

PairLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
TEMPERATURE = 0.5  # of NT-Xent


@dataclass(frozen=True)
class Peer:
    """A loss of somebody else's.

    Attributes:
        name: as the table has it.
        package: what is to be installed; "torch" for plain torch.
        make: imports it.
        most_rows: pairs up to which it fits into memory.
    """

    name: str
    package: str
    make: Callable[[], PairLoss]
    most_rows: int | None = None

    def load(self) -> tuple[PairLoss | None, str]:
        """The loss, or None and why it is missing."""
        try:
            return self.make(), ""
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError)
            return None, "not installed" if missing else f"cannot be imported ({error})"
        except (OSError, RuntimeError) as error:  # a broken library, or one that wants a GPU
            return None, f"cannot be imported ({type(error).__name__}: {str(error).partition(chr(10))[0]})"


# -- mmcl ----------------------------------------------------------------------------------------------------------


def mmcl_info_nce() -> PairLoss:
    """``mmcl.losses.info_nce``."""
    from mmcl.losses import info_nce

    return lambda image, text, scale, bias: info_nce(image, text, scale)


def mmcl_sigmoid() -> PairLoss:
    """``mmcl.losses.sigmoid``."""
    from mmcl.losses import sigmoid

    return sigmoid


def mmcl_nt_xent() -> PairLoss:
    """``mmcl.losses.nt_xent``."""
    from mmcl.losses import nt_xent

    return lambda first, second, scale, bias: nt_xent(first, second, temperature=TEMPERATURE)


# -- plain torch, with one product of the embeddings ---------------------------------------------------------------


def _labels(image: Tensor) -> Tensor:
    return torch.arange(len(image), device=image.device)


def plain_info_nce() -> PairLoss:
    """Cross-entropy of the logits and of their transpose."""

    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        logits, labels = scale * (image @ text.T), _labels(image)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    return loss


def plain_info_nce_rows() -> PairLoss:
    """The same with the scale on the rows: two passes over the logits less."""

    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        logits, labels = scale * image @ text.T, _labels(image)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    return loss


def plain_sigmoid() -> PairLoss:
    """Softplus of all logits, less the logits of the pairs."""

    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        logits = torch.addmm(bias, scale * image, text.T)
        return (F.softplus(logits).sum() - logits.diagonal().sum()) / len(image)

    return loss


def plain_nt_xent() -> PairLoss:
    """Cross-entropy of all views against all, with the diagonal filled with -inf."""

    def loss(first: Tensor, second: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        views = torch.cat([first, second])
        logits = (views / TEMPERATURE @ views.T).fill_diagonal_(-torch.inf)
        return F.cross_entropy(logits, _labels(views).roll(len(first)))

    return loss


# -- other packages ------------------------------------------------------------------------------------------------


def _open_clip(name: str) -> type[torch.nn.Module]:
    """A loss of open_clip's, from its own file: its package takes seconds to import, and wants timm and torchvision."""
    package = importlib.util.find_spec("open_clip")
    if package is None:
        raise ModuleNotFoundError("open_clip")
    path = Path(package.submodule_search_locations[0]) / "loss.py"
    spec = importlib.util.spec_from_file_location("open_clip_loss", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError:  # a release whose losses need the rest of the package
        module = importlib.import_module("open_clip.loss")
    return getattr(module, name)


def open_clip_info_nce() -> PairLoss:
    """open_clip's ``ClipLoss``, its labels kept from call to call."""
    module = _open_clip("ClipLoss")(cache_labels=True)
    return lambda image, text, scale, bias: module(image, text, scale)


def open_clip_sigmoid() -> PairLoss:
    """open_clip's ``SigLipLoss``."""
    return _open_clip("SigLipLoss")()


def transformers_info_nce() -> PairLoss:
    """The loss of transformers' CLIP, with the product that its forward pass makes."""
    from transformers.models.clip import modeling_clip

    loss = getattr(modeling_clip, "image_text_contrastive_loss", None) or modeling_clip.clip_loss
    return lambda image, text, scale, bias: loss(text @ image.T * scale)


def info_nce_pytorch() -> PairLoss:
    """info-nce-pytorch, called for both directions; it normalises the rows itself."""
    from info_nce import info_nce

    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return (info_nce(image, text, temperature=1 / scale) + info_nce(text, image, temperature=1 / scale)) / 2

    return loss


def lightly_nt_xent() -> PairLoss:
    """lightly's ``NTXentLoss``; it normalises the rows itself."""
    from lightly.loss import NTXentLoss

    module = NTXentLoss(temperature=TEMPERATURE)
    return lambda first, second, scale, bias: module(first, second)


def metric_learning_nt_xent() -> PairLoss:
    """pytorch-metric-learning's ``NTXentLoss`` for two views; it normalises the rows itself."""
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    module = SelfSupervisedLoss(NTXentLoss(temperature=TEMPERATURE))
    return lambda first, second, scale, bias: module(first, second)


def memeff_info_nce() -> PairLoss:
    """memeff's CLIP loss; its temperature is a number, without gradient."""
    from memeff import MemoryEfficientCLIPLoss

    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return module(image, text)

    module = MemoryEfficientCLIPLoss(temperature=1 / LOGIT_SCALE, normalized_inputs=True, stable=False)
    return loss


def inf_cl_info_nce() -> PairLoss:
    """inf-cl's loss on one GPU, called for both directions."""
    from inf_cl import cal_flash_loss

    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        both = cal_flash_loss(image, text, scale=scale), cal_flash_loss(text, image, scale=scale)
        return sum(rows.mean() for rows in both) / 2

    return loss


LOGIT_SCALE = 1 / 0.07  # CLIP's at the start
CLIP_LOSS = Peer("ClipLoss (open_clip)", "open_clip", open_clip_info_nce)
PLAIN = Peer("plain torch, one product", "torch", plain_info_nce)
PLAIN_ROWS = Peer("plain torch, rows scaled first", "torch", plain_info_nce_rows)
INFO_NCE = (
    PLAIN,
    PLAIN_ROWS,
    CLIP_LOSS,
    Peer("CLIP's loss (transformers)", "transformers", transformers_info_nce),
    Peer("info-nce-pytorch, both ways", "info_nce", info_nce_pytorch),
)
SIGLIP_LOSS = Peer("SigLipLoss (open_clip)", "open_clip", open_clip_sigmoid)
SIGMOID = (Peer("plain torch, one product", "torch", plain_sigmoid), SIGLIP_LOSS)
NT_XENT = (
    Peer("plain torch, one product", "torch", plain_nt_xent),
    Peer("NTXentLoss (lightly)", "lightly", lightly_nt_xent),
    # Every positive pair against every negative pair: 8 GiB at 256 pairs.
    Peer("NTXentLoss (pytorch-metric-learning)", "pytorch_metric_learning", metric_learning_nt_xent, most_rows=128),
)
ON_A_GPU = (Peer("memeff", "memeff", memeff_info_nce), Peer("inf-cl, both ways", "inf_cl", inf_cl_info_nce))


# -- what they are called on -----------------------------------------------------------------------------------------


def leaves(
    rows: int, dim: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu", bias: float = -10.0
) -> list[Tensor]:
    """Two sets of random unit rows, CLIP's first logit scale and a bias, all wanting a gradient."""
    draw = torch.Generator().manual_seed(0)
    sides = [F.normalize(torch.randn(rows, dim, generator=draw), dim=1).to(device, dtype) for _ in range(2)]
    numbers = [torch.tensor(value, device=device) for value in (LOGIT_SCALE, bias)]
    return [tensor.requires_grad_() for tensor in (*sides, *numbers)]


def step(
    loss: PairLoss, inputs: list[Tensor], *, autocast: torch.dtype | None = None
) -> Callable[[], tuple[Tensor, tuple[Tensor | None, ...]]]:
    """A call that computes the loss and its gradient in every input: None where it has none.

    Args:
        loss: of the inputs.
        inputs: leaves.
        autocast: the precision that the forward pass runs in; None: as it is.
    """
    device = inputs[0].device.type

    def call() -> tuple[Tensor, tuple[Tensor | None, ...]]:
        with torch.autocast(device, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
            value = loss(*inputs)
        return value.detach(), torch.autograd.grad(value, inputs, allow_unused=True)

    return call
