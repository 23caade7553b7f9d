"""Secrets in text: tokens, keys, passwords. What is found is told by its kind and line, never by its value."""

from __future__ import annotations

import re
from typing import NamedTuple


class Finding(NamedTuple):
    """A secret in a text: the line it stands in, from 1, and what kind it is."""

    line: int
    kind: str


# Each is long or odd enough to stand in no ordinary text.
_KINDS: dict[str, str] = {
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{24,}\b",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})\b",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "an API key": r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{24,}\b",
    "a bearer token": r"\b[Bb]earer[ \t]+[A-Za-z0-9._~+/-]{16,}",
    "credentials in a URL": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"'<>]+:[^\s/@\"'<>]+@[\w.-]",
}
_KNOWN = {kind: re.compile(pattern) for kind, pattern in _KINDS.items()}
_KNOWN_BYTES = {kind: re.compile(pattern.encode()) for kind, pattern in _KINDS.items() if kind != "an API key"}

_NAMES = r"password|passwd|passphrase|api[_-]?key|secret|secret[_-]?key|access[_-]?key|credentials?"
_TOKENS = r"(?:hf|hub|hugging[_-]?face(?:[_-]?hub)?|auth|access|api|bearer|wandb|github)[_-]?token"
# `name: value`, `name=value`, `"name": "value"`; a number without quotes is an id in a vocabulary, not a password.
_ASSIGNED = re.compile(
    rf"""(?ix) (?:^|[\s"'{{,;&?(]|--) (?:[\w.-]*[_.-])? (?:{_NAMES}|{_TOKENS}) ["']? \s* [:=] \s*
    (?: "(?P<double>[^"\n]*)" | '(?P<single>[^'\n]*)' | (?P<bare>[^\s"',;&}}\])]+) )"""
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
    found = {(text.count("\n", 0, match.start()) + 1, kind)
             for kind, pattern in _KNOWN.items() for match in pattern.finditer(text)}  # fmt: skip
    for match in _ASSIGNED.finditer(text):
        bare = "" if quoted_only else (match["bare"] or "").rstrip(".:`*")
        value = match["double"] or match["single"] or bare
        if len(value) >= _SHORTEST and not _PLACEHOLDER.match(value) and not _is_number(match):
            found.add((text.count("\n", 0, match.end()) + 1, "a password or key"))
    return [Finding(line, kind) for line, kind in sorted(found)]


def _is_number(match: re.Match[str]) -> bool:
    """Whether the value is a short bare number, as in a vocabulary that has the word."""
    bare = match["bare"]
    return bare is not None and re.fullmatch(r"-?\d{1,7}(\.\d+)?", bare) is not None


def find_secrets_in_bytes(content: bytes) -> list[str]:
    """Kinds of secrets in a file that is no text; those alone that are recognised by their form."""
    return [kind for kind, pattern in _KNOWN_BYTES.items() if pattern.search(content)]


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
    for pattern in _KNOWN.values():
        text = pattern.sub("***", text)
    return text
