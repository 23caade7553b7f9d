"""`KeptStructure`: embeddings of one modality are to relate as its tower's own features do."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmcl.batch import Embeddings
from mmcl.losses import similarity_preserving
from mmcl.objectives.member_losses import part_of_member


class KeptStructure:
    """A term that stands beside the loss between pairs.

    A tower that was pretrained on much knows which captions are alike, and so what lies between the few hundred that
    training shows it: a head that keeps the cosines of its features ranks captions it has not seen better. Features
    carry no gradient here: a tower that is trained is followed, not held back. Where features are mixed before the
    heads, a mixture is to relate as its larger part does.

    Args:
        weights: of ``similarity_preserving``, by modality, "image" or "text"; those that are 0 are left out.
        members: of the model's heads, each of which keeps the structure by itself; the term is their mean.

    Example:
        >>> import torch
        >>> rows = torch.eye(3)
        >>> made = Embeddings(rows, rows, torch.arange(3), torch.tensor(1.0), text_features=rows[:, [1, 0, 2]])
        >>> float(KeptStructure({"text": 20.0})(made, made))
        0.0
    """

    def __init__(self, weights: Mapping[str, float], *, members: int = 1) -> None:
        self.weights = {modality: weight for modality, weight in weights.items() if weight > 0}
        self.members = members

    def __call__(self, own: Embeddings, everyone: Embeddings) -> Tensor:
        """() the weighted terms of this process's rows, held against those of all processes."""
        total = own.image.new_zeros(())
        for modality, weight in self.weights.items():
            features = getattr(own, f"{modality}_features"), getattr(everyone, f"{modality}_features")
            for place in range(self.members):
                rows, others = (
                    part_of_member(getattr(part, modality), place, self.members) for part in (own, everyone)
                )
                term = similarity_preserving(rows, features[0], gathered=others, gathered_teacher=features[1])
                total = total + weight / self.members * term
        return total
