"""The options that `mmcl card` and `mmcl push` share: what a person says of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmcl.hub.card import ModelCardWords

License = Annotated[
    str | None, typer.Option("--license", help="Of the model: an identifier of the Hub, such as apache-2.0, or other.")
]
LicenseName = Annotated[str | None, typer.Option("--license-name", help="Name of a licence 'other'.")]
LicenseLink = Annotated[
    str | None, typer.Option("--license-link", help="Address of a licence 'other', or LICENSE, a file beside the card.")
]
Languages = Annotated[
    list[str] | None, typer.Option("--language", metavar="CODE", help="ISO 639-1 code of the captions; repeatable.")
]
Datasets = Annotated[
    list[str] | None,
    typer.Option("--dataset", metavar="ID", help="Data set of the Hub that it was trained on; repeatable."),
]
BaseModels = Annotated[
    list[str] | None,
    typer.Option("--base-model", metavar="ID", help="Model of the Hub that training started from; repeatable."),
]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A further tag on the Hub; repeatable.")]
Title = Annotated[str | None, typer.Option("--title", help="Heading of the card; default the repository's name.")]
Gallery = Annotated[
    bool,
    typer.Option(
        "--gallery/--no-gallery",
        help="Show a few test images and captions, which are then as public as the card.",
    ),
]
Baselines = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline",
        metavar="MODEL",
        help="Another model to judge on the same data: any MODEL, or start, the recipe's model before training.",
    ),
]


def model_card_words(
    *,
    title: str | None = None,
    license_: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    languages: list[str] | None = None,
    datasets: list[str] | None = None,
    base_models: list[str] | None = None,
    tags: list[str] | None = None,
) -> ModelCardWords:
    """The options as `ModelCardWords`, checked before anything is opened.

    Raises:
        ConfigError: a value that the Hub does not know; the nearest one is named.
    """
    from mmcl.hub.card.checks import check_words
    from mmcl.hub.card.words import ModelCardWords

    words = ModelCardWords(
        title=title, license=license_, license_name=license_name, license_link=license_link,
        languages=tuple(languages or ()), datasets=tuple(datasets or ()), base_models=tuple(base_models or ()),
        tags=tuple(tags or ()),
    )  # fmt: skip
    check_words(words)
    return words
