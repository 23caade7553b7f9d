"""`mmcl merge lora`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcl.cli.console import make_console
from mmcl.cli.merge.options import Force, Json, Outputs, finish
from mmcl.logs import get_logger

log = get_logger(__name__)


def lora(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The base that the adapters were trained on.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the merged model is written.")],
    image: Annotated[
        Path | None, typer.Option("--image-adapter", metavar="DIR", help="Adapter of the image tower's module.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text-adapter", metavar="DIR", help="Adapter of the text tower's module.")
    ] = None,
    whole: Annotated[
        Path | None, typer.Option("--adapter", metavar="DIR", help="One adapter of the whole model.")
    ] = None,
    scale: Annotated[float, typer.Option("--scale", help="Share of the adapters that is added.")] = 1.0,
    force: Force = False,
    json_file: Json = None,
) -> None:
    """LoRA adapters that peft saved, added into the weights: the result needs no peft.

    DIR holds adapter_config.json and adapter_model.safetensors. Pickled adapters are refused.

    Example: mmcl merge lora owner/clip --image-adapter adapters/image --text-adapter adapters/text -o merged
    """
    from mmcl.errors import ConfigError

    adapters = {"image": image, "text": text, "whole": whole}
    given = {side: str(folder) for side, folder in adapters.items() if folder is not None}
    if not given:
        raise ConfigError("give --image-adapter DIR, --text-adapter DIR, or --adapter DIR of the whole model")
    outputs = Outputs(out, force, json_file)
    outputs.check([model, *given.values()])
    from mmcl.hub.merging.adapter_folder import read_adapter_config
    from mmcl.hub.merging.lora import changed_weights, merge_lora
    from mmcl.hub.merging.record import MergeRecord
    from mmcl.hub.merging.sources import open_source

    for folder in given.values():
        read_adapter_config(folder)  # before a large base is opened
    base = open_source(model)
    merged = merge_lora(base, image=image, text=text, whole=whole, scale=scale)
    changed = changed_weights(base, merged)
    if not changed:
        log.warning("the adapters change no weight: they are zero, as untrained ones are, or --scale is 0")
    make_console().print(f"{len(changed)} of {len(base.state_dict())} weights changed", markup=False)
    record = MergeRecord("lora", [model, *given.values()], {"adapters": given, "scale": scale})
    finish(merged, record, outputs, more={"changed_weights": len(changed)})
