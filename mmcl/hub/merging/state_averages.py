"""Averages of models' weights: summed in float64, cast back, and exact where there is nothing to average."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.hub.merging.matching import check_mergeable
from mmcl.models.dual_encoder import DualEncoder


class StateAverage:
    """A weighted mean of ``state_dict``s, one taken in after another.

    ``mean = sum_i weight_i * state_i / sum_i weight_i``, in float64, cast back to the first state's dtype. Integer
    tensors (``num_batches_tracked``, position ids) are the first state's. Tensors that are equal in all states stay as
    they are, bit for bit; so do all where every weight but one is 0. Everything else is averaged as it is stored:
    ``log_logit_scale`` therefore in log space, and a batch norm's running mean and variance like any weight (see
    `mmcl.hub.merging.batch_statistics.reestimate_batch_norm` for better).

    Attributes:
        equal: names of tensors that all states so far hold alike.

    Example:
        >>> average = StateAverage()
        >>> average.add({"w": torch.tensor([0.0, 1.0])}, 0.25)
        >>> average.add({"w": torch.tensor([4.0, 1.0])}, 0.75)
        >>> average.state()["w"]
        tensor([3., 1.])
    """

    def __init__(self) -> None:
        self.equal: set[str] = set()
        self._first: dict[str, Tensor] = {}
        self._alone: dict[str, Tensor] | None = None  # the one state whose weight is not 0
        self._sums: dict[str, Tensor] = {}
        self._weights: list[float] = []

    def add(self, state: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Take a state in; names and shapes must be those of the first, see `check_mergeable`.

        It is referred to until the mean is taken, and must not change before.

        Raises:
            ConfigError: the weight is not finite.
        """
        if not math.isfinite(weight):
            raise ConfigError(f"a model's weight is {weight}; want a finite number")
        held = {name: tensor.detach().cpu() for name, tensor in state.items()}
        if not self._weights:
            self._first = held
            self.equal = set(held)
        self.equal &= {name for name in self.equal if torch.equal(held[name], self._first[name])}
        used = sum(one != 0 for one in self._weights)
        if weight != 0:
            self._alone = held if not used else None
            for name, tensor in held.items():
                if tensor.is_floating_point():
                    part = tensor.double().mul_(weight)
                    self._sums[name] = part if name not in self._sums else self._sums[name].add_(part)
        self._weights.append(weight)

    def copy(self) -> StateAverage:
        """One that may take in more without changing this one."""
        twin = copy.copy(self)
        twin.equal, twin._weights = set(self.equal), list(self._weights)
        twin._sums = {name: tensor.clone() for name, tensor in self._sums.items()}
        return twin

    def state(self) -> dict[str, Tensor]:
        """The mean of what was taken in.

        Raises:
            ConfigError: nothing was, the weights sum to 0, or a mean is not finite.
        """
        total = math.fsum(self._weights)
        if abs(total) < 1e-12:
            raise ConfigError(f"the weights of {len(self._weights)} models sum to {total:g}; want another sum than 0")
        if self._alone is not None:
            return {name: tensor.clone() for name, tensor in self._alone.items()}
        found = {}
        for name, first in self._first.items():
            if name in self.equal or not first.is_floating_point():
                found[name] = first.clone()
                continue
            found[name] = (self._sums[name] / total).to(first.dtype)
            if not torch.isfinite(found[name]).all():
                raise ConfigError(f"the average of {name} is not finite; a model holds NaN or infinity in it")
        return found


def average_models(
    models: Sequence[DualEncoder], weights: Sequence[float] | None = None, *, names: Sequence[str] | None = None
) -> DualEncoder:
    """The model whose weights are the weighted mean of some models' weights.

    Args:
        models: of one architecture, at least one; each is asked for once, so a sequence may open them one by one.
        weights: one a model, summing to 1; None: all alike. Negative ones extrapolate.
        names: what messages call the models.

    Returns:
        A new model in evaluation mode, with the first one's towers, tokenizer and settings and the highest ceiling of
        the scale. None of ``models`` is changed.

    Raises:
        ConfigError: no model; weights of another number or sum; two models differ in more than weights.
    """
    count = len(models)
    weights = check_weights(weights, count)
    names = list(names or (f"model {number}" for number in range(count)))
    average, first = StateAverage(), None
    ceiling = 0.0
    for name, model, weight in zip(names, models, weights):
        first = model if first is None else first
        if model is not first:
            check_mergeable(first, model, names=(names[0], name))
        ceiling = max(ceiling, model.logit_scale_max)
        average.add(model.state_dict(), weight)
    merged = with_state(first, average.state())
    merged.logit_scale_max = ceiling
    if min(weights) < 0:
        merged.clamp_logit_scale()  # a mean of scales below the ceiling is below it; an extrapolation need not be
    return merged


def check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """One weight a model; equal ones for None.

    Raises:
        ConfigError: no model; another number of weights than models; they do not sum to 1.
    """
    if not count:
        raise ConfigError("there is no model to average; name at least one")
    if weights is None:
        return [1 / count] * count
    found = [float(weight) for weight in weights]
    if len(found) != count:
        raise ConfigError(f"{len(found)} weights are given for {count} models; give one for each")
    total = math.fsum(found)
    if not math.isclose(total, 1, abs_tol=1e-6):  # also where one is NaN
        raise ConfigError(f"the weights {', '.join(f'{one:g}' for one in found)} sum to {total:g}; want 1")
    return found


def with_state(model: DualEncoder, state: Mapping[str, Tensor]) -> DualEncoder:
    """A copy of a model that holds other weights, in evaluation mode.

    Args:
        model: stays as it is.
        state: all its names, the same shapes.
    """
    twin = copy.deepcopy(model)
    twin.load_state_dict(state)
    return twin.eval()
