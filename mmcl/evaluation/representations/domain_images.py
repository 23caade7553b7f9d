"""`DomainImages`: embeddings of images that say which domain they are from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmcl.evaluation.evaluator import image_embeddings

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder


@dataclass(frozen=True)
class DomainImages:
    """The embeddings of the images that have a domain and could be read.

    Attributes:
        embeddings: (n, d) float32.
        domains: n domains.
        labels: n labels, None where there is none.
        groups: (n,) int64 group ids.
        rows: (n,) int64 row numbers in the data set.
        num_skipped: images with a domain that could not be read.
        num_without_domain: rows without a domain, which were left out.
    """

    embeddings: Tensor
    domains: list[str]
    labels: list[str | None]
    groups: Tensor
    rows: np.ndarray
    num_skipped: int
    num_without_domain: int
    _places: dict[str, list[int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places: dict[str, list[int]] = {domain: [] for domain in sorted(set(self.domains))}
        for place, domain in enumerate(self.domains):
            places[domain].append(place)
        object.__setattr__(self, "_places", places)

    def __len__(self) -> int:
        return len(self.domains)

    @property
    def names(self) -> list[str]:
        """The domains there are, sorted."""
        return list(self._places)

    def of(self, domain: str) -> Tensor:
        """(m,) int64: the positions of one domain's images."""
        return torch.tensor(self._places.get(domain, []), dtype=torch.int64)

    def labelled(self) -> DomainImages:
        """Those that have a label."""
        kept = [place for place, label in enumerate(self.labels) if label is not None]
        return DomainImages(
            embeddings=self.embeddings[kept],
            domains=[self.domains[place] for place in kept],
            labels=[self.labels[place] for place in kept],
            groups=self.groups[kept],
            rows=self.rows[kept],
            num_skipped=self.num_skipped,
            num_without_domain=self.num_without_domain,
        )


def domain_images(embedder: Embedder, dataset: ImageTextDataset, *, batch_size: int) -> DomainImages:
    """Embed every readable image that has a domain.

    Args:
        embedder: of images.
        dataset: with a column ``domain`` that holds at least one value.
        batch_size: images a forward pass.

    Raises:
        DataError: no image with a domain could be read.
        ShapeError: an embedding is not finite.
    """
    cells = dataset.column("domain")
    having = np.array([row for row, domain in enumerate(cells) if domain is not None], dtype=np.int64)
    embeddings, positions, skipped = image_embeddings(embedder, dataset.select(having), batch_size=batch_size)
    rows = having[positions]
    return DomainImages(
        embeddings=embeddings,
        domains=[cells[row] for row in rows.tolist()],
        labels=[dataset.value("label", row) for row in rows.tolist()],
        groups=dataset.group_ids()[torch.from_numpy(rows)],
        rows=rows,
        num_skipped=len(skipped),
        num_without_domain=len(cells) - len(having),
    )
