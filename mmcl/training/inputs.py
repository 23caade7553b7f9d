"""Where training batches come from: pixels and tokens, or the kept features of towers that do not change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc

from mmcl.config import Recipe
from mmcl.data.augment.captions import CaptionSampler, random_keys
from mmcl.data.augment.images import ImageAugmentation
from mmcl.data.augment.seeds import row_seed
from mmcl.data.augment.tokens import TokenDropout
from mmcl.data.batches.cached_tokens import CachedTokens, cache_tokens
from mmcl.data.batches.collate import BatchReader, ImagePixels
from mmcl.data.cache_folder import cache_folder
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.mining.hard_negatives import HardNegativeChoice
from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.freezing import apply_freezing
from mmcl.training.cached_features import FeatureCache, Views
from mmcl.training.gather import gather_objects, rank

log = get_logger(__name__)


class TrainingInputs:
    """A run's reader, and its change from kept features to raw inputs when a tower thaws.

    Args:
        recipe: its ``data``, ``train.feature_cache`` and ``model`` sections are read.
        model: frozen as at the start.
        train: the training split.
        cache: features of frozen towers; None: towers always run.
    """

    def __init__(self, recipe: Recipe, model: DualEncoder, train: ImageTextDataset, cache: FeatureCache | None) -> None:
        self._recipe, self._model, self._train, self._cache = recipe, model, train, cache
        self._negatives = HardNegativeChoice(train, recipe.negatives)  # what it misses is told before features are made
        self.reader = BatchReader(
            train,
            self._image(),
            self._text(),
            captions=recipe.data.captions,
            seed=recipe.run.seed,
            negatives=self._negatives,
        )
        epochs = {tower.freeze_until_epoch for tower in (recipe.model.image, recipe.model.text)}
        self._thaws_at = sorted(epoch for epoch in epochs if epoch is not None)

    def thaw(self, epoch: float) -> bool:
        """Thaw what is due at a fractional epoch; whether what trains has changed."""
        if not self._thaws_at or epoch < self._thaws_at[0]:
            return False
        self._thaws_at = [later for later in self._thaws_at if later > epoch]
        changed = apply_freezing(self._model, self._recipe.model, epoch=epoch)
        if changed:
            self.reader.image, self.reader.text = self._image(), self._text()
        return changed

    def _image(self) -> Any:
        section, encoder = self._recipe.data.augment, self._model.image
        preprocessing = encoder.tower.preprocessing
        augmentation = ImageAugmentation(section, preprocessing) if section.active else None
        if self._cache is None or not encoder.has_fixed_features:
            return ImagePixels(self._train, preprocessing, augmentation, decode=self._recipe.data.decode)
        if augmentation is None:
            return self._cache.images(encoder, self._train, shared=True)
        seed, number = self._recipe.run.seed, self._recipe.train.feature_cache.views
        log.warning(
            "the image tower is frozen: its features are kept, for %d augmented view(s) of each image. More: "
            "train.feature_cache.views=N; new ones at every step, slowly: train.feature_cache.enabled=false",
            number,
        )
        description = f"{section.model_dump_json()} seed {seed}"
        views = Views(number, augmentation, description, lambda view, row: row_seed(seed, view, row))
        return self._cache.images(encoder, self._train, views=views, shared=True)

    def _text(self) -> Any:
        encoder, section = self._model.text, self._recipe.data.captions
        keys = [*random_keys(section), *(["data.captions.token_dropout"] if section.token_dropout else [])]
        if self._cache is None or not encoder.has_fixed_features or keys:
            if self._cache is not None and encoder.has_fixed_features:
                log.warning(
                    "the text tower is frozen, but its features cannot be kept: %s vary captions without end; it runs "
                    "at every step",
                    ", ".join(keys),
                )
            preprocessing = encoder.tower.preprocessing
            if not section.token_dropout:
                return preprocessing if keys else self._tokens(preprocessing)
            return TokenDropout(preprocessing, section.token_dropout, by=section.token_dropout_by)
        captions = set(self._negatives.possible_captions())
        captions.update(CaptionSampler(self._train, section).possible_captions())
        return self._cache.texts(encoder, captions, shared=True)

    def _tokens(self, preprocessing: Any) -> Any:
        """The text tower's preprocessing, from tokens that are kept where that is asked for or saves work."""
        asked = self._recipe.data.cache_tokens
        if asked is False or (asked == "auto" and not self._captions_come_again()):
            return preprocessing
        sampler = CaptionSampler(self._train, self._recipe.data.captions)
        progress = None if self._cache is None else self._cache.progress

        def captions() -> Iterator[str]:
            yield from sampler.possible_captions()
            yield from sorted(self._negatives.possible_captions())

        def make() -> CachedTokens:
            return cache_tokens(preprocessing, captions, folder=cache_folder() / "tokens", progress=progress)

        # The main process writes; the others find it done, or write it on a disk of their own.
        failure, cached = None, None
        try:
            cached = make() if rank() == 0 else None
        except OSError as error:
            failure = f"tokens cannot be kept in {cache_folder() / 'tokens'} ({error.strerror or error})"
        failure = gather_objects(failure)[0]
        if failure is None:
            return cached or make()
        if asked is True:
            raise ConfigError(f"{failure}; set data.cache_tokens=false, or MMCL_CACHE to another folder")
        log.warning("%s: captions are tokenised at every step; MMCL_CACHE names another folder", failure)
        return preprocessing

    def _captions_come_again(self) -> bool:
        train = self._recipe.train
        rows = train.max_steps * train.batch_size if train.max_steps else train.epochs * len(self._train)
        captions = 1 if self._recipe.data.captions.sample == "first" else self._captions_a_row()
        return rows >= 2 * captions * len(self._train)

    def _captions_a_row(self) -> float:
        return pc.mean(pc.list_value_length(self._train.table["texts"])).as_py() or 1.0
