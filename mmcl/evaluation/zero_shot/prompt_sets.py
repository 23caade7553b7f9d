"""Prompt templates by name: sets to start from, in the place of a file."""

from __future__ import annotations

# The class name and little else: for names that say all, and for models that read short labels best.
_PLAIN = ("{}", "{}.", "a {}.", "the {}.", "some {}.", "this is {}.")

_PHOTO = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture showing a {}.",
    "a close view of a {}.",
    "a {} seen from afar.",
    "a snapshot with a {} in it.",
    "a sharp photo of one {}.",
    "a grainy photo of one {}.",
    "several {} in one photo.",
    "a {} in front of a plain background.",
)

# Eighty ways in which a thing may come into a picture. Each line of the list varies one matter: how it was taken, by
# whom, what of it is seen, in what light, where, in what state, and in what medium.
_PHOTO80 = (
    # plainly
    "a photo of a {}.", "a photograph showing a {}.", "an image in which a {} appears.", "here we see the {}.",
    "a {} in a picture.", "this photograph is about a {}.", "a camera was pointed at this {}.", "look, a {}!",
    # how well it was taken
    "a crisp, detailed photo of a {}.", "an out-of-focus shot of a {}.", "a {} smeared by camera shake.",
    "a grainy picture of the {}.", "a badly compressed image of a {}.", "a tiny, coarse picture of a {}.",
    "an overexposed photo of a {}.", "an underexposed photo of a {}.", "a {} in washed-out colours.",
    "a photo of a {} in strong contrast.",
    # by whom and for what
    "a holiday snapshot of a {}.", "a studio photograph of a {}.", "a press photo showing a {}.",
    "a phone picture of my {}.", "a catalogue picture of a {}.", "a field guide's photo of a {}.",
    "a picture postcard of the {}.", "an amateur's shot of the {}.", "a prize-winning photograph of a {}.",
    "a {} photographed for a museum.",
    # what of it is seen
    "a full view of one {}.", "only a part of a {} fits the frame.", "a {} cut off at the edge of the picture.",
    "a {} filling the whole frame.", "a {} half hidden behind something.", "a detail of the surface of a {}.",
    "a {} as a speck in the distance.", "a {} and its surroundings.", "the outline of a {} against the light.",
    "a mirror image of a {}.",
    # from where
    "a {} seen from above.", "a {} seen from below.", "a {} seen from the side.", "a {} seen from behind.",
    "a {} facing the camera.", "a {} turned at an angle.", "an aerial picture with a {}.", "a {} behind glass.",
    # how many
    "a single {}, alone.", "a pair: two {}.", "a group of {}.", "a heap or row of {}.", "one {} among other things.",
    "the biggest {} of them all.", "a very small {}.",
    # light, season and place
    "a {} in bright sunshine.", "a {} at dusk.", "a {} at night, lit by a lamp.", "a {} in fog.", "a {} in the snow.",
    "a {} in the rain.", "a {} indoors.", "a {} out in the open.", "a {} on a white background.",
    "a {} on a dark background.", "a {} in a cluttered scene.",
    # in what state
    "a brand-new or young {}.", "an old, worn {}.", "a dirty {}.", "a clean, tidy {}.", "a strangely shaped {}.",
    "an ordinary {} as one knows it.", "a beautiful {}.", "an ugly {}.", "a {} on the move.", "a {} at rest.",
    # in what medium
    "a black-and-white photo of a {}.", "a faded old print showing a {}.", "a computer rendering of a {}.",
    "a model or toy of a {}.", "a {} drawn by hand.", "a sign or poster with a {} on it.",
)  # fmt: skip

_ART = (
    "a drawing of a {}.",
    "a quick pencil sketch of a {}.",
    "an ink drawing of the {}.",
    "a line drawing with a {}.",
    "a child's crayon picture of a {}.",
    "a watercolour of a {}.",
    "an oil painting showing a {}.",
    "a woodcut of a {}.",
    "a comic panel with a {}.",
    "a flat icon that stands for a {}.",
    "an emoji of a {}.",
    "a clip-art picture of a {}.",
    "a logo shaped like a {}.",
    "a pixel-art {}.",
    "a stencilled {} on a wall.",
    "a mosaic that shows a {}.",
    "a carved figure of a {}.",
    "a {} embroidered on cloth.",
    "a tattoo of a {}.",
    "an artist's impression of a {}.",
)

TEMPLATE_SETS: dict[str, tuple[str, ...]] = {"plain": _PLAIN, "photo": _PHOTO, "photo80": _PHOTO80, "art": _ART}
