"""`DualEncoder`: an image and a text encoder that meet in one space, with a learnable scale."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmcl.config import ModelSection
from mmcl.errors import ConfigError
from mmcl.models.encoder import Encoder, build_encoder


class DualEncoder(nn.Module):
    """Image and text encoders with the scale (and bias) that turn their scores into logits.

    ``logits = logit_scale * scores + logit_bias``. The scale is learnt as its logarithm, starts at 1/0.07 and is kept
    at or below 100. Source: Radford et al. 2021 (arXiv:2103.00020), section 2.5; the bias: Zhai et al. 2023
    (arXiv:2303.15343), section 3. The parameter has shape (1,), not (), because sharding wants a dimension.

    Args:
        image, text: the two encoders; their embeddings must have one size.
        embedding_dim: that size.
        logit_scale: start of the scale, > 0.
        logit_scale_max: its ceiling.
        logit_scale_learnable: false keeps it where it starts.
        logit_bias: start of a learnable bias; None for no bias.

    Raises:
        ConfigError: logit_scale is not positive, or above its ceiling.
    """

    def __init__(
        self,
        image: Encoder,
        text: Encoder,
        *,
        embedding_dim: int,
        logit_scale: float = 1 / 0.07,
        logit_scale_max: float = 100.0,
        logit_scale_learnable: bool = True,
        logit_bias: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 < logit_scale <= logit_scale_max * (1 + 1e-6):
            raise ConfigError(f"model.logit_scale is {logit_scale}; want 0 < logit_scale <= {logit_scale_max}")
        self.image, self.text, self.embedding_dim = image, text, embedding_dim
        self.logit_scale_max = logit_scale_max
        self.log_logit_scale = nn.Parameter(torch.tensor([math.log(logit_scale)]), requires_grad=logit_scale_learnable)
        self.logit_bias = None if logit_bias is None else nn.Parameter(torch.tensor([float(logit_bias)]))

    @property
    def logit_scale(self) -> Tensor:
        """(1,) the factor from scores to logits, with gradient."""
        return self.log_logit_scale.exp()

    def encode_image(self, **inputs: Tensor) -> Tensor:
        """``pixel_values`` (b, 3, h, w), or ``features`` (b, f) -> embeddings (b, d), unit rows."""
        return self.image(**inputs)

    def encode_text(self, **inputs: Tensor) -> Tensor:
        """``input_ids`` and ``attention_mask`` (b, t), or ``features`` (b, f) -> embeddings (b, d), unit rows."""
        return self.text(**inputs)

    def encoder(self, modality: str) -> Encoder:
        """The encoder of ``"image"`` or ``"text"``."""
        return {"image": self.image, "text": self.text}[modality]

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Bring the scale back to its ceiling after an optimizer step."""
        self.log_logit_scale.clamp_(max=math.log(self.logit_scale_max))

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the model as a folder that ``mmcl.load`` reads, and transformers too where it can hold the model.

        The arguments are those of huggingface_hub's ``ModelHubMixin``.

        Args:
            save_directory: made when missing.
            repo_id: where to push; default the owner who is logged in, and the folder's name.
            push_to_hub: push as well.
            push_to_hub_kwargs: arguments of ``push_to_hub``.

        Returns:
            The commit's address; None where nothing was pushed.

        Raises:
            ConfigError: the folder cannot be written, or the push does not succeed.
        """
        from mmcl.models.publishing import save_model

        folder = save_model(self, save_directory)
        return self.push_to_hub(repo_id or folder.resolve().name, **push_to_hub_kwargs) if push_to_hub else None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> DualEncoder:
        """Open any MODEL with two towers: a run or model folder, a Hub id, ``open_clip:ARCH`` ...

        The arguments are those of huggingface_hub's ``ModelHubMixin``; all but the first concern Hub ids alone.

        Args:
            pretrained_model_name_or_path: the MODEL.
            revision: branch, tag or commit; None for ``main``.
            token: to log in with; None for the one that ``hf auth login`` or ``HF_TOKEN`` left, False for none.
            cache_dir: another cache than the Hub's own.
            force_download: fetch files again.
            local_files_only: take only what was fetched before.

        Returns:
            The model in evaluation mode.

        Raises:
            ConfigError: there is no such model, or it cannot be reached or read.

        Example:
            >>> model = DualEncoder.from_pretrained("owner/name")     # doctest: +SKIP
        """
        from mmcl.models.publishing import open_model

        return open_model(
            pretrained_model_name_or_path, revision=revision, token=token, cache_dir=cache_dir,
            force_download=force_download, local_files_only=local_files_only,
        )  # fmt: skip

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push model",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Push the model with a short card to a repository of the Hub, in one commit.

        A run says more with ``mmcl push``: its card has figures, pictures and the recipe. The arguments are those of
        huggingface_hub's ``ModelHubMixin``.

        Args:
            repo_id: ``owner/name``, or a name of one's own; made where it is missing.
            commit_message: the commit's.
            private: whether a repository that is made is private; None for the owner's default.
            token: to log in with; None for the one that ``hf auth login`` or ``HF_TOKEN`` left.
            branch: made where it is missing; None for ``main``.
            create_pr: open a pull request in place of changing the branch.

        Returns:
            The commit's address.

        Raises:
            ConfigError: the Hub does not let it happen; one sentence says what to do.

        Example:
            >>> model.push_to_hub("owner/name", private=True)         # doctest: +SKIP
        """
        from mmcl.models.publishing import push_model

        return push_model(
            self, repo_id, message=commit_message, private=private, token=token, branch=branch, create_pr=create_pr
        )

    def num_parameters(self, *, trainable: bool = False) -> int:
        """How many values the model holds, or trains."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable)


def build_dual_encoder(section: ModelSection, *, captions: Iterable[str] = ()) -> DualEncoder:
    """Build the model that a recipe's ``model`` section describes.

    Args:
        section: the recipe's section.
        captions: the training captions; a tiny text tower makes its vocabulary of them.

    Raises:
        ConfigError: a tower cannot be built, or sizes do not agree.

    Example:
        >>> model = build_dual_encoder(ModelSection(), captions=["a red circle"])
        >>> model.embedding_dim
        256
    """
    return DualEncoder(
        build_encoder(section.image, "image", section.embedding_dim),
        build_encoder(section.text, "text", section.embedding_dim, captions=captions),
        embedding_dim=section.embedding_dim,
        logit_scale=section.logit_scale,
        logit_scale_max=section.logit_scale_max,
        logit_scale_learnable=section.logit_scale_learnable,
        logit_bias=section.logit_bias,
    )
