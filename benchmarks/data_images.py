"""From JPEG files to a tower's pixels: mmcl, open_clip's transform, and torchvision v2 as one writes it by hand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from measuring import Row, Settings, bounded, compared, say, times, times_and_results
from torch import Tensor

HEIGHT, WIDTH, SIZE = 480, 640, 224
SCALE, RATIO = (0.9, 1.0), (0.75, 1.3333333333333333)  # open_clip's defaults
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WHAT = f"JPEG {WIDTH} x {HEIGHT}: decode, random crop, resize to {SIZE}, normalise"


def write_photographs(folder: Path, count: int) -> list[str]:
    """JPEG files (quality 90, 4:2:0) of coloured noise at all scales, which take as many bytes as photographs do."""
    from PIL import Image

    draw, files = torch.Generator().manual_seed(0), []
    for number in range(count):
        pixels = torch.full((1, 3, HEIGHT, WIDTH), 120.0)
        for octave in range(7):
            width = 4 * 2**octave
            noise = torch.randn(1, 3, max(2, HEIGHT * width // WIDTH), width, generator=draw)
            noise = 0.8 * noise.mean(1, keepdim=True) + 0.4 * noise
            scaled = torch.nn.functional.interpolate(noise, (HEIGHT, WIDTH), mode="bicubic")
            pixels += 40 / (octave + 1) * scaled
        array = pixels[0].clamp(0, 255).byte().permute(1, 2, 0).numpy()
        files.append(str(folder / f"{number:04d}.jpg"))
        Image.fromarray(array).save(files[-1], quality=90)
    return files


def open_clip_pixels(files: list[str]) -> Callable[[], Tensor]:
    """open_clip's own transform for training."""
    import open_clip
    from PIL import Image

    transform = open_clip.image_transform(SIZE, is_train=True, mean=MEAN, std=STD)

    def read() -> Tensor:
        views = []
        for seed, file in enumerate(files):
            torch.manual_seed(seed)
            views.append(transform(Image.open(file)))
        return torch.stack(views)

    return read


def torchvision_pixels(files: list[str]) -> Callable[[], Tensor]:
    """torchvision v2 on tensors."""
    from torchvision.io import ImageReadMode, decode_image, read_file
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(SIZE, SCALE, RATIO, v2.InterpolationMode.BICUBIC, antialias=True)
    transform = v2.Compose([crop, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def read() -> Tensor:
        views = []
        for seed, file in enumerate(files):
            torch.manual_seed(seed)
            views.append(transform(decode_image(read_file(file), mode=ImageReadMode.RGB, apply_exif_orientation=True)))
        return torch.stack(views)

    return read


def image_pixels(files: list[str], decode: str) -> Any:
    """What a training batch reads its images through."""
    import pyarrow as pa

    from mmcl.config import AugmentSection
    from mmcl.data.augment.images import ImageAugmentation
    from mmcl.data.batches.collate import ImagePixels
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.data.images.files import FileImages
    from mmcl.models.towers.preprocessing import ImagePreprocessing

    preprocessing = ImagePreprocessing((SIZE, SIZE), mean=MEAN, std=STD)
    augmentation = ImageAugmentation(AugmentSection(crop_scale=SCALE, crop_ratio=RATIO), preprocessing)
    table = pa.table({"texts": [[f"photograph {number}"] for number in range(len(files))]})
    dataset = ImageTextDataset(FileImages("/", pa.array(files)), table, name="photographs")
    return dataset, ImagePixels(dataset, preprocessing, augmentation, decode=decode)


def mmcl_pixels(files: list[str], decode: str) -> Callable[[], Tensor]:
    """mmcl's, as a training step asks for it."""
    _, pixels = image_pixels(files, decode)
    rows = range(len(files))
    return lambda: pixels(rows, rows)[0]["pixel_values"]


def differences(one: Tensor, other: Tensor) -> Tensor:
    """How far pixels are apart before they were normalised, of 255."""
    return ((one - other) * 255 * torch.tensor(STD).view(3, 1, 1)).abs()


def decode(settings: Settings) -> Iterator[Row]:
    """Time and pixels of exact and of scaled decoding."""
    with tempfile.TemporaryDirectory() as folder:
        count = 6 if settings.quick else 100
        say(f"decoding {count} photographs ...")
        files = write_photographs(Path(folder), count)
        calls = {
            "open_clip": open_clip_pixels(files),
            "torchvision v2": torchvision_pixels(files),
            "mmcl": mmcl_pixels(files, "exact"),
            "mmcl scaled": mmcl_pixels(files, "scaled"),
        }
        for call in calls.values():
            call()
        seconds, pixels = times_and_results(calls, rounds=settings.repeats or (2 if settings.quick else 10))
        best = {name: min(values) for name, values in seconds.items()}
        for ours, most in (("mmcl", 1 / 2.4), ("mmcl scaled", 1 / 3)):
            what = WHAT if ours == "mmcl" else f"{WHAT}; decoded at a part of the size"
            for peer, at_most in (("open_clip", most), ("torchvision v2", None)):
                details = {"images": count, "seconds": {name: seconds[name] for name in (ours, peer)}}
                yield compared("decode", what, best[ours], peer, best[peer], unit="s", at_most=at_most, **details)
        yield from _pixel_rows(pixels, files)


def _pixel_rows(pixels: dict[str, Any], files: list[str]) -> Iterator[Row]:
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    from mmcl.data.images.decoding import to_image_tensor

    pairs = ((to_image_tensor(file), pil_to_tensor(Image.open(file))) for file in files)
    largest = max(float((one.int() - other.int()).abs().max()) for one, other in pairs)
    yield bounded("decode", "decoded pixels: largest difference of 255", largest, "Pillow", unit="", at_most=0)
    apart = differences(pixels["mmcl"], pixels["torchvision v2"]).round()
    what = "exact, whole path: {} difference of 255"
    yield bounded("decode", what.format("largest"), float(apart.max()), "torchvision v2", unit="", at_most=0)
    for ours in ("mmcl", "mmcl scaled"):
        apart = differences(pixels[ours], pixels["open_clip"])
        what = f"{'exact' if ours == 'mmcl' else 'scaled'}, whole path: {{}} difference of 255"
        # Pillow resizes with weights of 22 bits, torchvision with 16: some pixels are rounded the other way.
        mean = round(float(apart.mean()), 4)
        bound = 0.05 if ours == "mmcl" else 4.0
        yield bounded("decode", what.format("mean"), mean, "open_clip", unit="", at_most=bound)
        bound = 1.0 if ours == "mmcl" else 255.0
        largest = round(float(apart.max()), 2)
        yield bounded("decode", what.format("largest"), largest, "open_clip", unit="", at_most=bound)


def loader(settings: Settings) -> Iterator[Row]:
    """An epoch through 0, 1 and 2 reader processes, which stay from epoch to epoch."""
    from mmcl.config import CaptionsSection
    from mmcl.data import BatchLoader, BatchReader
    from mmcl.negatives.samplers import RandomBatches

    with tempfile.TemporaryDirectory() as folder:
        count = 8 if settings.quick else 256
        say(f"loading {count} photographs ...")
        dataset, pixels = image_pixels(write_photographs(Path(folder), count), "exact")
        reader = BatchReader(dataset, pixels, lambda texts: {}, captions=CaptionsSection(), seed=0)
        batches = RandomBatches(count, 4 if settings.quick else 32, seed=0)
        loaders = {workers: BatchLoader(reader, batches, workers=workers) for workers in (0, 1, 2)}

        def epoch(workers: int) -> Callable[[], int]:
            return lambda: sum(len(batch) for batch in loaders[workers])

        calls = {str(workers): epoch(workers) for workers in loaders}
        for call in calls.values():
            call()
        seconds = times(calls, rounds=settings.repeats or (2 if settings.quick else 5))
        for each in loaders.values():
            each.close()
        best = {workers: min(seconds[workers]) for workers in calls}
        for workers in ("1", "2"):
            what = f"an epoch of {count} images through {workers} worker(s), nothing else to do"
            details = {"images_per_second": count / best[workers], "seconds": seconds}
            yield compared("loader", what, best[workers], "no worker", best["0"], unit="s", **details)
