"""`mmcl data augment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcl.cli.console import check_json_file, make_console, write_json
from mmcl.cli.evaluate.options import Columns, Data, Images, Json, open_data

if TYPE_CHECKING:
    from mmcl.config import Recipe


def augment(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PAGE.html", help="Page to write.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Recipe keys to change, such as data.augment.blur=0."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="data.augment.preset: simclr, dino, clip ...")] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="Take data.augment, data.captions and run.seed from a recipe.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows shown, drawn by the seed.")] = 8,
    views: Annotated[int, typer.Option(min=1, help="Epochs shown of each.")] = 6,
    size: Annotated[
        int | None,
        typer.Option(min=8, help="Pixels of a view; default the recipe's model.image.image_size, or 224."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of run.seed.")] = None,
    json_file: Json = None,
    columns: Columns = None,
    images: Images = None,
) -> None:
    """Show what augmentation makes of images and captions, on an HTML page with thumbnails.

    Each row is shown as it is and as the first epochs of training bring it, with the settings that made it.

    Example: mmcl data augment path/to/emoji:train -o page.html --preset simclr data.captions.word_dropout=0.1
    """
    from mmcl.errors import ConfigError

    check_json_file(json_file)
    if out.is_dir():
        raise ConfigError(f"--out {out}: it is a folder; name a file in it")
    chosen = _read_recipe(data, recipe, preset, overrides or [])
    from mmcl.data.augment.preview import preview

    renamed = [f"{key}={value}" for key, value in chosen.data.columns.model_dump().items() if value is not None]
    root = Path(chosen.data.images) if images is None and chosen.data.images else images
    dataset = open_data(data, columns=[*renamed, *(columns or [])], images=root)
    seed = chosen.run.seed if seed is None else seed
    size = size or chosen.model.image.image_size or 224
    varied, captions = chosen.data.augment, chosen.data.captions
    page = preview(dataset, varied, captions, rows=rows, views=views, size=size, seed=seed)
    page.write(out)
    about = {"data": dataset.name, "page": str(out), "rows": min(rows, len(dataset)), "views": views, "size": size}
    make_console().print(f"{out}: {about['rows']} rows of {dataset.name}, {views} views each")
    sections = {"augment": varied.model_dump(mode="json"), "captions": captions.model_dump(mode="json")}
    write_json(json_file, {**about, "seed": seed, **sections})


def _read_recipe(data: str, recipe: str | None, preset: str | None, overrides: list[str]) -> Recipe:
    """The recipe whose sections are shown; without one, what --preset and the overrides say."""
    from mmcl.config import apply_overrides, load_recipe, recipe_from_tree

    chosen = [] if preset is None else [f"data.augment.preset={preset}"]
    if recipe is not None:
        return load_recipe(recipe, [*chosen, *overrides])
    tree = {"data": {"path": data}}
    apply_overrides(tree, [*chosen, *overrides])
    return recipe_from_tree(tree, source="mmcl data augment")
