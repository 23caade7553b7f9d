"""The values that the Hugging Face Hub knows in a card's front matter: licences, languages, tasks, sizes."""

from __future__ import annotations

import re

# Source: Hugging Face Hub documentation, "Licenses" (identifiers of the repository's licence).
_LICENSES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc
    cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0
    cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
    eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c
    ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa
    unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1
    llama3.2 llama3.3 llama4 grok2-community gemma unknown other
"""
LICENSES = frozenset(_LICENSES.split())

# Two letters: ISO 639-1.
_LANGUAGES = """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee
    el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is
    it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms
    mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk
    sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi
    yo za zh zu
"""
LANGUAGES = frozenset(_LANGUAGES.split())
_SPECIAL_LANGUAGES = ("code", "multilingual")

# Source: Hugging Face Hub, the tasks that a data set can be filtered by (those that can hold for images and texts).
_TASKS = """
    image-to-text text-to-image image-text-to-text image-classification zero-shot-image-classification
    image-feature-extraction image-segmentation image-to-image object-detection zero-shot-object-detection
    unconditional-image-generation visual-question-answering visual-document-retrieval
    document-question-answering depth-estimation mask-generation keypoint-detection image-to-video image-to-3d
    text-to-video text-to-3d video-classification video-text-to-text any-to-any feature-extraction
    sentence-similarity text-retrieval text-ranking text-classification zero-shot-classification text-generation
    translation summarization question-answering fill-mask token-classification table-question-answering
    tabular-classification tabular-regression time-series-forecasting reinforcement-learning robotics graph-ml
    audio-classification audio-to-audio automatic-speech-recognition text-to-speech text-to-audio
    voice-activity-detection multiple-choice other
"""
TASKS = frozenset(_TASKS.split())

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
    (10_000_000_000, "1B<n<10B"),
    (100_000_000_000, "10B<n<100B"),
    (1_000_000_000_000, "100B<n<1T"),
)
SIZES = (*(name for _, name in _SIZES), "n>1T")

# What a licence asks of those who use the data; other licences are quoted as they are.
_ASKS_CREDIT = re.compile(r"cc-by|odc-by|apache|mit|bsd|ofl|gfdl|odbl")


def size_category(rows: int) -> str:
    """The Hub's name for a number of rows.

    Example:
        >>> size_category(3288)
        '1K<n<10K'
    """
    return next((name for end, name in _SIZES if rows < end), SIZES[-1])


def license_id(name: str) -> str | None:
    """The Hub's identifier of a licence as data name it (``CC-BY-4.0``, ``CC BY 4.0``); None for one it does not know.

    Example:
        >>> license_id("CC BY 4.0"), license_id("my own")
        ('cc-by-4.0', None)
    """
    wanted = re.sub(r"[\s_]+", "-", name.strip().lower())
    return wanted if wanted in LICENSES else None


def asks_credit(name: str) -> bool:
    """Whether a licence is one of those that want their authors named, or their notice kept."""
    return _ASKS_CREDIT.match(license_id(name) or "") is not None


def is_language(code: str) -> bool:
    """Whether the Hub takes a language code: ISO 639-1, three letters (639-3, not looked up), or a special word."""
    return code in LANGUAGES or code in _SPECIAL_LANGUAGES or re.fullmatch(r"[a-z]{3}", code) is not None
