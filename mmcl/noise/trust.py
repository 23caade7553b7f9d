"""`PairTrust`: what a training has seen of each pair, and how far it trusts it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcl.config.noise_sections import METHODS_WITH_EMA, NoiseSection
from mmcl.errors import ShapeError
from mmcl.noise.selection import dropped_share, mean_by, smallest
from mmcl.noise.two_components import clean_probability
from mmcl.noise.wrong_share import share_below, wrong_probability, wrong_share

TRUSTED = 0.5  # from this chance of being right on, a pair is
FIT_TO_JUDGE = 0.6  # of the pairs, at least, a judge must find better than pairs made wrong; 0.5 is chance
LARGEST_SHARE = 0.9  # of the pairs that may be left out
FEWEST_OF_A_KIND = 100  # claims, from which on a kind is judged by itself


class PairTrust(nn.Module):
    """A moving average of each pair's loss, and once an epoch, from all of them, what each pair weighs.

    A network learns what is regular first and learns single wrong pairs by heart later, so a pair whose loss stays
    large is likely wrong; or rare, or hard: nothing here can tell these apart. In the warm-up all pairs weigh 1. A
    pair that weighs little is not learnt by heart afterwards, so its loss stays large and goes on telling.

    With ``cross_fit`` nothing is learnt by looking on: ``judge`` is told all losses before the first step, by models
    that were not trained on these pairs, beside those of pairs made wrong. Held against these, the share of wrong pairs
    is known and not fitted, and data without any lose next to none. Claims that stand alone against others of their
    group are more often wrong than those that a whole group makes: each kind is judged by itself.

    Pairs that make the same claim (one caption, for images of one group) are judged together, by the mean of their
    losses. All is kept in buffers, so a checkpoint holds it, and all processes that take the same in hold the same.

    Args:
        section: the recipe's ``noise``; its method is not "none".
        claims: (n,) int64, >= 0; equal for rows that make the same claim. n: rows of the training split.
        groups: (n,) int64; rows that the data say belong together; None: no row belongs to another.

    Attributes:
        losses: (n,) float32; NaN: not seen yet.
        clean: (n,) float32, how likely each pair is right; 1 before the first estimate, and for what was not seen.
        weights: (n,) float32 in [0, 1].
        epochs, steps: () int64; epochs and steps taken in.

    Source: the warm-up: Arpit et al. 2017 (arXiv:1706.05394); small_loss: Han et al. 2018 (arXiv:1804.06872), without a
    second network, and among all pairs, by their moving averages, in place of each batch; mixture: Li et al. 2020
    (arXiv:2002.07394) section 3.1, without a second network; cross_fit: Northcutt et al. 2021 (arXiv:1911.00068),
    pruned by noise rate, with the rate and odds of ``mmcl.noise.wrong_share``; kinds apart: Sun et al. 2006, Stratified
    false discovery control.

    Example:
        >>> import torch
        >>> trust = PairTrust(NoiseSection(method="mixture", warmup_epochs=1), torch.arange(100))
        >>> trust.take(torch.arange(100), torch.cat([torch.linspace(0, 1, 70), torch.linspace(5, 6, 30)]))
        >>> trust.of_rows(torch.tensor([0, 99])).round().tolist()
        [1.0, 0.0]
    """

    def __init__(self, section: NoiseSection, claims: Tensor, groups: Tensor | None = None) -> None:
        super().__init__()
        self.section = section
        groups = torch.arange(len(claims)) if groups is None else groups
        self.register_buffer("claims", claims.clone(), persistent=False)
        self.register_buffer("groups", groups.clone(), persistent=False)
        self.register_buffer("losses", torch.full((len(claims),), torch.nan))
        self.register_buffer("clean", torch.ones(len(claims)))
        self.register_buffer("weights", torch.ones(len(claims)))
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
        shapes = tuple(losses.shape), tuple(wrong_losses.shape)
        if shapes != (self.losses.shape, self.losses.shape):
            raise ShapeError(f"losses need shape {tuple(self.losses.shape)}, got {shapes[0]} and {shapes[1]}")
        self.losses.copy_(losses)
        claims = self.claims.cpu()
        ours, wrong = (mean_by(values.float().cpu(), claims) for values in (losses, wrong_losses))
        known = ~ours.isnan()
        # A claim counts once, however many images it is made of: as many losses are held against as many.
        first = _first_of_each(claims[known])
        losses, made_wrong = ours[known][first], wrong[known][first]
        fitness = share_below(losses, made_wrong)
        if fitness < FIT_TO_JUDGE:
            return fitness
        kinds = claim_kinds(claims, self.groups.cpu())[known][first]
        whole = self._judged(losses, made_wrong)
        of_claims = torch.empty_like(whole)
        for kind in kinds.unique():
            part = kinds == kind
            enough = int(part.sum()) >= FEWEST_OF_A_KIND
            of_claims[:, part] = self._judged(losses[part], made_wrong[part]) if enough else whole[:, part]
        place = claims[known].unique(return_inverse=True)[1]
        for kept, values in zip((self.clean, self.weights), of_claims):
            filled = torch.ones(len(ours))
            filled[known] = values[place]
            kept.copy_(filled)
        return fitness

    def _judged(self, losses: Tensor, made_wrong: Tensor) -> Tensor:
        """(2, k) how likely claims are right, and what they weigh."""
        clean = 1 - wrong_probability(losses, made_wrong)
        if self.section.weighting == "soft":
            return torch.stack([clean, clean])
        return torch.stack([clean, smallest(losses, min(wrong_share(losses, made_wrong), LARGEST_SHARE))])

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
        losses = mean_by(self.losses.cpu(), self.claims.cpu())
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


def claim_kinds(claims: Tensor, groups: Tensor) -> Tensor:
    """(n,) int64 in [0, 4): 1 where several rows make the claim, and 2 more where others of the group contradict it.

    Args:
        claims: (n,) int64, >= 0.
        groups: (n,) int64, >= 0.

    Example:
        >>> import torch
        >>> claim_kinds(torch.tensor([0, 0, 1, 2, 3]), torch.tensor([0, 0, 1, 1, 2])).tolist()
        [1, 1, 2, 2, 0]
    """

    def rows_of(ids: Tensor) -> Tensor:
        _, inverse, counts = ids.unique(return_inverse=True, return_counts=True)
        return counts[inverse]

    of_claim = rows_of(claims)
    return (of_claim > 1).long() + 2 * (rows_of(groups) > of_claim).long()


def _first_of_each(ids: Tensor) -> Tensor:
    """The place of the first of each id, ids ascending."""
    _, inverse = ids.unique(return_inverse=True)
    places = torch.arange(len(ids))
    return torch.full((int(inverse.max()) + 1 if len(ids) else 0,), len(ids)).scatter_reduce(0, inverse, places, "amin")
