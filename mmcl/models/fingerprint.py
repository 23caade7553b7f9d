"""Hashes of models: equal where they make the same features of the same inputs."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmcl.models.adapters.lora import has_adapters, merge_in_place
from mmcl.models.encoder import Encoder
from mmcl.models.heads import head_description

# What a config says of where it came from; the number of heads or a norm's epsilon, by contrast, are in no weight.
_NOT_IN_FEATURES = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version", "model_type"})


def update_with_state(digest: Any, state: Mapping[str, Tensor]) -> None:
    """Feed a hash with names and bytes of weights and buffers.

    Args:
        digest: of ``hashlib``.
        state: a ``state_dict``; copied to the CPU tensor by tensor.
    """
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def config_values(config: Mapping[str, Any]) -> str:
    """What a model's config says beside its weights, as JSON; where the model came from is left out."""
    told = {key: value for key, value in config.items() if not key.startswith("_") and key not in _NOT_IN_FEATURES}
    return json.dumps(told, sort_keys=True, default=str)


def tower_fingerprint(tower: Any) -> str:
    """Changes with anything that changes a tower's features: weights, inputs, and what its config says beside them.

    Args:
        tower: a ``Tower``; one whose LoRA adapters still are zero has the hash of its base.

    Returns:
        128 hexadecimal digits.
    """
    if has_adapters(tower):
        tower = copy.deepcopy(tower)
        merge_in_place(tower.model)
    digest = hashlib.blake2b()
    update_with_state(digest, tower.state_dict())
    preprocessing = tower.preprocessing
    fingerprint = getattr(preprocessing, "fingerprint", lambda: json.dumps(preprocessing.to_dict(), sort_keys=True))
    digest.update(fingerprint().encode())
    digest.update(config_values(tower.spec.get("config") or tower.spec.get("options") or {}).encode())
    return digest.hexdigest()


def encoder_fingerprint(encoder: Encoder) -> str:
    """Changes with anything that changes an encoder's embeddings: ``tower_fingerprint``, its pooling and its head.

    Args:
        encoder: one side of a ``DualEncoder``.

    Returns:
        128 hexadecimal digits.
    """
    digest = hashlib.blake2b(tower_fingerprint(encoder.tower).encode())
    digest.update(f"{type(encoder.tower.model).__name__} {encoder.tower.spec['name']} {encoder.pooling}".encode())
    digest.update(json.dumps(head_description(encoder.head), sort_keys=True).encode())
    for part in (encoder.learned_pooling, encoder.head):
        if part is not None:
            update_with_state(digest, part.state_dict())
    return digest.hexdigest()
