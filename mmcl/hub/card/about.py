"""What a card says first and last of a model: what it is, what it is made of, and how it was judged."""

from __future__ import annotations

from mmcl.hub.card.facts import ModelFacts
from mmcl.hub.card.markdown import ask, count, join, table
from mmcl.hub.card.results import headline
from mmcl.hub.card.run_data import RunData
from mmcl.hub.card.source import CardSource


def introduction(source: CardSource, facts: ModelFacts, data: RunData, link: str) -> str:
    """What it is, what it learnt from, and one figure with its chance line.

    Args:
        source, facts, data: what is known of the model, its run and its data.
        link: Markdown behind the data's name that leads to their card; empty where there is none.
    """
    parts = [
        f"An image-text embedding model: images and captions become {facts.embedding_dim} numbers each, and what "
        "belongs together lies close. For search, matching and classification without training examples."
    ]
    if data.name:
        parts.append(f"Trained with mmcl on **{data.name}**{link}.")
    split, metrics = next(iter(source.evaluation.items()), ("", {}))
    told = headline(metrics)
    if told:
        parts.append(f"On the split {split} it {told}.")
    elif source.recipe:
        parts.append("It was not judged on a test split.")
    else:
        parts.append("No training run lies beside it: what it learnt from and how good it is are not known here.")
    return join([" ".join(parts), ask("What is it for? Two sentences.")])


def towers(facts: ModelFacts) -> str:
    """The two encoders side by side, and what they are together."""
    image, text = facts.sides
    rows = [
        ("tower", image.name, text.name),
        ("architecture", image.architecture, text.architecture),
        ("reads", image.reads, text.reads),
        ("weights", image.trained, text.trained),
        ("pooling, head", f"{image.pooling}, {image.head}", f"{text.pooling}, {text.head}"),
        ("parameters", count(image.num_parameters), count(text.num_parameters)),
    ]
    bias = "" if facts.logit_bias is None else f" and bias {facts.logit_bias:.4g}"
    together = (
        f"Together {count(facts.num_parameters)} parameters; embeddings have {facts.embedding_dim} values and unit "
        f"length; logits are cosines times {facts.logit_scale:.4g}{bias}."
    )
    return join(
        [table(["", "image encoder", "text encoder"], [row for row in rows if any(row[1:])], numbers=False), together]
    )


def judging(source: CardSource, data: RunData, repo_id: str) -> str:
    """The commands that measure the same again."""
    if not source.evaluation:
        return "It was not judged. `mmcl eval retrieval MODEL DATA` and `mmcl eval zeroshot MODEL DATA` do it."
    tasks = {name.partition("/")[0] for metrics in source.evaluation.values() for name in metrics}
    commands = {"retrieval": "retrieval", "zeroshot": "zeroshot", "foils": "foils", "probe": "probe", "knn": "knn",
                "clusters": "clusters", "geometry": "geometry"}  # fmt: skip
    where = data.name if data.name.startswith("shapes") or "/" in data.name else f"path/to/{data.name}"
    lines = [
        f"mmcl eval {command} {repo_id} '{where}:{split}'"
        for split in source.evaluation
        for task, command in commands.items()
        if task in tasks
    ]
    extra = [
        f"`{key}` of the recipe: {value if isinstance(value, str) else '; '.join(map(str, value))}"
        for key in ("evaluate.classes", "evaluate.templates")
        if (value := source.value(key))
    ]
    rules = (
        "Retrieval ranks all images against all distinct captions; a hit is any item of the query's group, and ties "
        "count against the model. Zero-shot classes are named by prompts alone, an ensemble of templates. Intervals "
        "are 95 % bootstrap intervals over groups."
    )
    return join([rules, "```\n" + "\n".join(lines) + "\n```", "\n".join(f"- {line}" for line in extra)])
