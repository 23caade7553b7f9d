"""`FeatureMixup`: pairs of a batch mixed in feature space, both sides alike."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mmcl.errors import ConfigError


@dataclass(frozen=True)
class Mixing:
    """Who is mixed with whom, and how much of each.

    Attributes:
        partners: (b,) int64, a permutation of the rows.
        shares: (b,) float32 in [0.5, 1]: what a row keeps of itself.
    """

    partners: Tensor
    shares: Tensor

    def of(self, features: Tensor) -> Tensor:
        """features (b, f) -> (b, f): ``share * own + (1 - share) * partner's``, in the features' dtype."""
        shares = self.shares.to(features)[:, None]
        return shares * features + (1 - shares) * features[self.partners]

    def components(self, ids: Tensor) -> Tensor:
        """ids (b,) -> (b, 2): each mixed row's own, and its partner's."""
        return torch.stack([ids, ids[self.partners]], dim=1)


class FeatureMixup(nn.Module):
    r"""Draws, for each batch, a partner and a share for every row.

    With the features :math:`f_i` of an image and :math:`h_i` of its caption (a tower's output, before the head), the
    partner :math:`p(i)`, a random permutation, and :math:`\lambda_i = \max(\lambda', 1 - \lambda')`,
    :math:`\lambda' \sim \mathrm{Beta}(\alpha, \alpha)`,

    .. math:: \tilde f_i = \lambda_i f_i + (1 - \lambda_i) f_{p(i)}, \qquad
              \tilde h_i = \lambda_i h_i + (1 - \lambda_i) h_{p(i)}

    The mixed image and the mixed caption are the one positive pair of row i. Rows that share a part with it (a group of
    row i or of its partner is the group of theirs or of their partner) are left out for it: they are neither quite
    positive nor quite negative. All others are negatives. So no target is mixed, and any loss that knows what to leave
    out takes it.

    Numbers are drawn from a generator of their own, seeded by the run, the step and the rows: drawn again, they are
    the same, as gradient caching and resuming want, and all others that a training draws stay as they are. Partners
    are of the same micro-batch and process. A batch of one row is mixed with itself: nothing changes.

    Args:
        alpha: of the Beta distribution, > 0; smaller: most rows stay nearly themselves.
        seed: of the run.

    Attributes:
        step: () int64, a buffer.

    Raises:
        ConfigError: alpha is not positive.

    Source: Zhang et al. 2018, mixup (arXiv:1710.09412) section 2. Deviations: on features of both sides of a pair, a
    share a row, and the pair of two mixtures is the target itself, in place of a mixed label.

    Example:
        >>> import torch
        >>> mixing = FeatureMixup(0.4, seed=0)(torch.arange(4))
        >>> mixing.of(torch.eye(4)).sum(1).tolist(), bool((mixing.shares >= 0.5).all())
        ([1.0, 1.0, 1.0, 1.0], True)
    """

    def __init__(self, alpha: float, *, seed: int) -> None:
        super().__init__()
        if not alpha > 0:
            raise ConfigError(f"alpha of a feature mixup is {alpha}; want > 0, or no mixup at all")
        self.alpha, self.seed = alpha, seed
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, rows: Tensor) -> Mixing:
        """The mixing of these rows of the data set (b,) at this step."""
        numbers = np.array([self.seed, int(self.step), *rows.tolist()], dtype=np.int64)
        seed = int.from_bytes(hashlib.sha256(numbers.tobytes()).digest()[:8], "little")
        draw = np.random.default_rng(seed)
        partners = torch.from_numpy(draw.permutation(len(rows)))
        shares = draw.beta(self.alpha, self.alpha, len(rows))
        shares = torch.from_numpy(np.maximum(shares, 1 - shares)).float()
        return Mixing(partners.to(rows.device), shares.to(rows.device))

    def after_step(self) -> None:
        """The next batch draws other numbers."""
        self.step += 1
