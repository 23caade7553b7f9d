"""Secrets in text: tokens, keys, passwords. What is found is told by its kind and line, never by its value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """A secret in a text: the line it stands in, from 1, and what kind it is."""

    line: int
    kind: str


# Kind -> what every one of them holds, and its form, which is long or odd enough to stand in no ordinary text.
_FORMS: dict[str, tuple[tuple[str, ...], str]] = {
    "a Hugging Face token": (("hf_", "api_org_"), r"\b(?:hf|api_org)_[A-Za-z0-9]{24,}\b"),
    "an AWS access key": (("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": (("PRIVATE KEY",), r"-----BEGIN (?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
    "a GitHub token": (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})\b",
    ),
    "a GitLab token": (("glpat-",), r"\bglpat-[A-Za-z0-9_-]{20,}"),
    "a Slack token": (("xox",), r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a Google key": (("AIza",), r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "an API key": (("sk-",), r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{24,}\b"),
    "a bearer token": (("earer ", "earer\t"), r"\b[Bb]earer[ \t]+[A-Za-z0-9._~+/-]{16,}"),
    "credentials in a URL": (("://",), r"://[^\s/:@\"'<>]{1,200}:[^\s/@\"'<>]{1,200}@[\w.-]"),
}
_KNOWN = {kind: (markers, re.compile(form)) for kind, (markers, form) in _FORMS.items()}
# Among any bytes, "sk-" and letters after it are no rarity.
_KNOWN_BYTES = {
    kind: (tuple(marker.encode() for marker in markers), re.compile(form.encode()))
    for kind, (markers, form) in _FORMS.items()
    if kind != "an API key"
}
_BEFORE, _BEHIND = 64, 512  # what is looked at around a marker or a word

_WORDS = (
    *("password", "passwd", "passphrase", "secret", "credential"),
    *(f"{what}{mark}key" for what in ("api", "access") for mark in ("", "_", "-")),
    *(
        f"{whose}{mark}token"
        for whose in ("hf", "hub", "face", "auth", "access", "api", "bearer", "wandb", "github")
        for mark in ("", "_", "-")
    ),
)
# `name: value`, `name=value`, `"name": "value"`; a number without quotes is an id in a vocabulary, not a password.
_ASSIGNED = re.compile(
    r"""(?x) [\w-]{0,40} ["']? \s* [:=] \s*
    (?: "(?P<double>[^"\n]*)" | '(?P<single>[^'\n]*)' | (?P<bare>[^\s"',;&}\])]+) )"""
)
_PLACEHOLDER = re.compile(
    r"(?i)^(?:null|none|~|true|false|yes|no|str|string|required|optional|changeme|todo|\W*|[*x.]+|your\W.*|<.*>|\$.*|"
    r"%.*%|\{.*|\[.*|os\.environ.*|getenv.*|env[:.].*|\.\.\..*)$"
)
_SHORTEST = 4

# Names of files that hold secrets whatever is in them.
SECRET_NAMES = re.compile(
    r"(?i)^(?:\.env(?:\..*)?|.*\.env|\.netrc|_netrc|\.npmrc|\.pypirc|\.git-credentials|\.htpasswd|id_(?:rsa|dsa|ecdsa|"
    r"ed25519)(?:\.pub)?|.*\.(?:pem|key|p12|pfx|keystore|jks|kdbx)|credentials(?:\.\w+)?|secrets?\.\w+|token|"
    r"stored_tokens)$"
)


def find_secrets(text: str, *, quoted_only: bool = False) -> list[Finding]:
    """Secrets in a text, in the order of its lines; at most one of a kind in a line.

    Args:
        text: a file's text.
        quoted_only: values of passwords and keys count only in quotes, as in JSON.

    Example:
        >>> find_secrets("name: run\\npassword: hunter22")
        [Finding(line=2, kind='a password or key')]
    """
    found = set()
    for kind, (markers, form) in _KNOWN.items():
        for marker in markers:
            for at in _places(text, marker):
                match = form.search(text, max(0, at - _BEFORE), at + _BEHIND)
                if match is not None:
                    found.add((text.count("\n", 0, match.start()) + 1, kind))
    low = text.lower()
    if len(low) != len(text):  # some letters of other alphabets become two
        low = "".join(letter.lower() if letter.isascii() else letter for letter in text)
    for word in _WORDS:
        for at in _places(low, word):
            match = _ASSIGNED.match(text, at + len(word), at + _BEHIND)
            if match is not None and _is_secret(match, quoted_only=quoted_only):
                found.add((text.count("\n", 0, at) + 1, "a password or key"))
    return [Finding(line, kind) for line, kind in sorted(found)]


def _places(text: Any, marker: Any) -> Iterator[int]:
    """Where a marker stands in a text or in bytes; finding it takes far less time than searching for a pattern."""
    at = text.find(marker)
    while at >= 0:
        yield at
        at = text.find(marker, at + len(marker))


def _is_secret(match: re.Match[str], *, quoted_only: bool) -> bool:
    bare = "" if quoted_only else (match["bare"] or "").rstrip(".:`*")
    value = match["double"] or match["single"] or bare
    return len(value) >= _SHORTEST and not _PLACEHOLDER.match(value) and not _is_number(match)


def _is_number(match: re.Match[str]) -> bool:
    """Whether the value is a short bare number, as in a vocabulary that has the word."""
    bare = match["bare"]
    return bare is not None and re.fullmatch(r"-?\d{1,7}(\.\d+)?", bare) is not None


def find_secrets_in_bytes(content: bytes) -> list[str]:
    """Kinds of secrets in a file that is no text; those alone that are recognised by their form."""
    return [
        kind
        for kind, (markers, form) in _KNOWN_BYTES.items()
        if any(
            form.search(content, max(0, at - _BEFORE), at + _BEHIND)
            for marker in markers
            for at in _places(content, marker)
        )
    ]


def redact(text: str) -> str:
    """A text with every secret that is recognised by its form replaced by ``***``; for errors and logs.

    Example:
        >>> redact("Illegal header value b'Bearer abc\\n'")
        "Illegal header value b'Bearer ***"
    """
    text = re.sub(r"\b([Bb]earer)\s+\S+", r"\1 ***", text)
    text = re.sub(r"\b(?:hf|api_org)_[A-Za-z0-9]{4,}", "***", text)
    text = re.sub(r"(\w://)[^\s/@]+@", r"\1***@", text)
    text = re.sub(r"(?i)(x-amz-[\w-]+|signature|token|key-pair-id)=[^&\s'\"]+", r"\1=***", text)
    for _, form in _KNOWN.values():
        text = form.sub("***", text)
    return text
