"""`PairTrust`: what a training has seen of each pair, and how far it trusts it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcl.config.noise_sections import METHODS_WITH_EMA, NoiseSection
from mmcl.errors import ShapeError
from mmcl.noise.beforehand import judged_beforehand
from mmcl.noise.claims import Claims
from mmcl.noise.selection import dropped_share, mean_by, smallest
from mmcl.noise.two_components import clean_probability

TRUSTED = 0.5  # from this chance of being right on, a pair is


class PairTrust(nn.Module):
    """A moving average of each pair's loss, and once an epoch, from all of them, what each pair weighs.

    A network learns what is regular first and learns single wrong pairs by heart later, so a pair whose loss stays
    large is likely wrong; or rare, or hard: nothing here can tell these apart. In the warm-up all pairs weigh 1. A
    pair that weighs little is not learnt by heart afterwards, so its loss stays large and goes on telling.

    With ``cross_fit`` nothing is learnt by looking on: ``judge`` is told all losses before the first step, by models
    that were not trained on these pairs, beside those of pairs made wrong. Held against these, the share of wrong pairs
    is known and not fitted, and data without any lose next to none (``mmcl.noise.beforehand``).

    Pairs that make the same claim (one caption, for images of one group) are judged together, by the mean of their
    losses. All is kept in buffers, so a checkpoint holds it, and all processes that take the same in hold the same.

    Args:
        section: the recipe's ``noise``; its method is not "none".
        claims: of the n rows of the training split.

    Attributes:
        losses: (n,) float32; NaN: not seen yet.
        clean: (n,) float32, how likely each pair is right; 1 before the first estimate, and for what was not seen.
        weights: (n,) float32 in [0, 1].
        epochs, steps: () int64; epochs and steps taken in.

    Source: the warm-up: Arpit et al. 2017 (arXiv:1706.05394); small_loss: Han et al. 2018 (arXiv:1804.06872), without a
    second network, and among all pairs, by their moving averages, in place of each batch; mixture: Li et al. 2020
    (arXiv:2002.07394) section 3.1, without a second network; cross_fit: Northcutt et al. 2021 (arXiv:1911.00068).

    Example:
        >>> import torch
        >>> trust = PairTrust(NoiseSection(method="mixture", warmup_epochs=1), Claims.alone(100))
        >>> trust.take(torch.arange(100), torch.cat([torch.linspace(0, 1, 70), torch.linspace(5, 6, 30)]))
        >>> trust.of_rows(torch.tensor([0, 99])).round().tolist()
        [1.0, 0.0]
    """

    def __init__(self, section: NoiseSection, claims: Claims) -> None:
        super().__init__()
        self.section, self.claims = section, claims
        self._claim_ids, rows = claims.ids, len(claims.groups)  # on the CPU, where pairs are judged
        self.register_buffer("losses", torch.full((rows,), torch.nan))
        self.register_buffer("clean", torch.ones(rows))
        self.register_buffer("weights", torch.ones(rows))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # pairs of the present epoch
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def needs_ema(self) -> bool:
        """Whether pairs are judged by a moving average of the model."""
        return self.section.method in METHODS_WITH_EMA

    @property
    def ema_momentum(self) -> float:
        """Of the moving average at this step, ``min(ema_momentum, (1 + steps) / (10 + steps))``.

        A short warm-up would otherwise end with an average that is mostly the random start.
        """
        steps = int(self.steps)
        return min(self.section.ema_momentum, (1 + steps) / (10 + steps))

    @property
    def looks_on(self) -> bool:
        """Whether pairs are judged while they are trained on, and not beforehand."""
        return self.section.method != "cross_fit"

    @property
    def has_begun(self) -> bool:
        """Whether pairs have been judged: the warm-up is over, or they were judged beforehand."""
        if not self.looks_on:
            return bool(self.losses.isfinite().any())
        return int(self.epochs) >= self.section.warmup_epochs

    def of_rows(self, rows: Tensor) -> Tensor:
        """(b,) what the pairs of these rows weigh."""
        return self.weights[rows]

    def trusted(self, rows: Tensor) -> Tensor:
        """(b,) bool: the pairs of these rows that are more likely right than wrong, and not left out."""
        return (self.clean[rows] >= TRUSTED) & (self.weights[rows] > 0)

    @torch.no_grad()
    def judge(self, losses: Tensor, wrong_losses: Tensor) -> float:
        """Judge all pairs at once, by models that were not trained on them.

        Models that can hardly tell a pair from one that was made wrong judge nobody: then all pairs stay trusted.

        Args:
            losses: (n,) of each pair; NaN: not known, and trusted.
            wrong_losses: (n,) of each image with the caption of another group; NaN where the loss is.

        Returns:
            How often a pair has a smaller loss than one made wrong; what is below ``FIT_TO_JUDGE`` changes nothing.

        Raises:
            ShapeError: there are not n of each.
        """
        fitness, clean, weights = judged_beforehand(
            self.claims, losses, wrong_losses, soft=self.section.weighting == "soft"
        )
        self.losses.copy_(losses)
        self.clean.copy_(clean)
        self.weights.copy_(weights)
        return fitness

    @torch.no_grad()
    def take_over(self, judged: PairTrust, rows: Tensor) -> None:
        """Trust pairs as another does, that has judged: each as its pair of some row.

        Args:
            judged: of as many pairs.
            rows: (n,) int64, the row whose caption each pair has.
        """
        for name in ("losses", "clean", "weights"):
            own, other = getattr(self, name), getattr(judged, name)
            own.copy_(other[rows.to(other.device)])

    @torch.no_grad()
    def take(self, rows: Tensor, losses: Tensor) -> None:
        """Take a step's losses in; behind the last row of an epoch the weights are found anew. Not with ``cross_fit``.

        Args:
            rows: (b,) int64; a row that stands there twice counts with its mean.
            losses: (b,) of the pairs of these rows; one that is not finite is passed over.

        Raises:
            ShapeError: the two do not fit, or a row is none of the n.
        """
        if rows.shape != losses.shape or rows.ndim != 1:
            raise ShapeError(f"rows and losses need one shape (b,), got {tuple(rows.shape)} and {tuple(losses.shape)}")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.losses):
            raise ShapeError(f"rows go from {int(rows.min())} to {int(rows.max())}; want 0 to {len(self.losses) - 1}")
        if not self.looks_on:
            return
        # On the CPU sums over rows that stand there twice have one order, and so one result.
        finite = losses.isfinite().cpu()
        found, inverse = rows.cpu()[finite].unique(return_inverse=True)
        means = mean_by(losses.float().cpu()[finite], inverse)
        new = torch.zeros(len(found)).index_copy(0, inverse, means).to(self.losses)
        found, momentum = found.to(self.losses.device), self.section.loss_momentum
        before = self.losses[found]
        self.losses[found] = torch.where(before.isnan(), new, momentum * before + (1 - momentum) * new)
        self.steps += 1
        self.seen += len(rows)
        if int(self.seen) >= len(self.losses):
            self.seen -= len(self.losses)
            self.epochs += 1
            if self.has_begun:
                self._judge()

    def _judge(self) -> None:
        losses = mean_by(self.losses.cpu(), self._claim_ids)
        known = ~losses.isnan()
        clean = torch.ones(len(losses))
        clean[known] = clean_probability(losses[known])
        weights = clean.clone()
        if self.section.method == "small_loss":
            share = float(1 - clean[known].mean()) if self.section.share is None else self.section.share
            epochs = int(self.epochs) - self.section.warmup_epochs + 1
            weights[known] = smallest(
                losses[known], dropped_share(share, epochs=epochs, ramp_epochs=self.section.ramp_epochs)
            )
        elif self.section.weighting == "drop":
            weights = (clean >= TRUSTED).float()
        self.clean.copy_(clean)
        self.weights.copy_(weights)

    def summary(self) -> dict[str, Tensor]:
        """``noise/clean_share``, the estimated share of right pairs, and ``noise/mean_weight``; {} in the warm-up."""
        if not self.has_begun:
            return {}
        return {"noise/clean_share": self.clean.mean(), "noise/mean_weight": self.weights.mean()}
