"""What the Hub's client raises, as one sentence that says what to do; and what is worth another try."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.repos.secret_finding import redact

log = get_logger(__name__)

Result = TypeVar("Result")

# Overloaded, restarting, or too many requests: the same request may be answered a moment later.
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
# Somebody else's commit came first, or the Hub was busy with another change of the same repository.
CONFLICTS = frozenset({409, 412})
TRIES = 4
READING = ("read", "list", "open")  # what can be done with what was fetched before
# They log addresses, which are signed, and errors that quote headers.
_CHATTY = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2")
FIRST_WAIT_SECONDS = 1.0


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error of the Hub's client came from; None where there was no answer."""
    for link in chain(error):
        status = getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def is_cut(error: BaseException) -> bool:
    """Whether a connection broke, or could not be made, before there was an answer."""
    return any(type(link).__module__.partition(".")[0] in ("httpx", "httpx2") and _is_network(link)
               for link in chain(error)) and status_of(error) is None  # fmt: skip


def _is_network(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"NetworkError", "TimeoutException", "RemoteProtocolError"})


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    return status_of(error) in TRANSIENT or is_cut(error)


def one_sentence(error: Exception, repo_id: str, doing: str) -> ConfigError:
    """What went wrong with a repository, in one sentence without any token.

    Args:
        error: what huggingface_hub raised.
        repo_id: the repository's id.
        doing: what was being done, such as "read" or "push to".
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    links, status = list(chain(error)), status_of(error)
    start = f"cannot {doing} {repo_id!r} on the Hub: "

    def found(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in links)

    if found(HFValidationError):
        return ConfigError(f"{repo_id!r} is no id of the Hub's; want owner/name, of letters, digits, '-', '_' and '.'")
    if found(OfflineModeIsEnabled) and doing in READING:
        return ConfigError(
            f"{start}HF_HUB_OFFLINE is set, and it is not among what was fetched before; unset HF_HUB_OFFLINE, or "
            f"fetch it first (hf download {repo_id})"
        )
    if found(OfflineModeIsEnabled):
        return ConfigError(f"{start}HF_HUB_OFFLINE is set; unset it where there is a network")
    if found(GatedRepoError):
        return ConfigError(f"{start}its owner gives access on request; ask for it on the repository's page, and log in")
    if found(RevisionNotFoundError):
        return ConfigError(f"{start}it has no such branch, tag or commit; check the revision")
    if found(RepositoryNotFoundError):
        return ConfigError(
            f"{start}there is none of this name that you may see; check the name, and for a private one log in "
            f"(hf auth login, or HF_TOKEN) with a token that may read it"
        )
    return ConfigError(start + _of_status(status, repo_id, links))


def _of_status(status: int | None, repo_id: str, links: list[BaseException]) -> str:
    owner = repo_id.partition("/")[0]
    if status == 401:
        return "it is not known who you are; log in (hf auth login, or set HF_TOKEN) with a token that is still valid"
    if status == 403:
        return (
            f"the token may not do that (403); use a token with write access to {owner!r}, or, where {owner!r} is an "
            f"organisation, have it created and join it with the right to write"
        )
    if status == 404:
        return "there is nothing at that address (404); check the name"
    if status == 429:
        return "the Hub asks to slow down (429); try again in some minutes"
    if status is not None and status >= 500:
        return f"the Hub answers with an error of its own ({status}), more than once; try again later"
    if status is None and any(_is_network(link) for link in links):
        return "the connection broke, or could not be made, more than once; check the network and try again"
    reason = f"{type(links[0]).__name__}: " + " ".join(redact(str(links[0])).split())[:300]
    return reason if status is None else f"the Hub answers {status}: {_server_words(links) or reason}"


def _server_words(links: list[BaseException]) -> str:
    words = next((link.server_message for link in links if getattr(link, "server_message", None)), "")
    return " ".join(redact(words).split())[:300]


def with_retries(call: Callable[[], Result], repo_id: str, doing: str) -> Result:
    """Call, and call again where the Hub was busy or the connection broke; anything else ends at once.

    Args:
        call: the request or requests; must be safe to do twice.
        repo_id, doing: for the message, as in ``one_sentence``.

    Raises:
        ConfigError: it did not succeed; one sentence says why and what to do.
    """
    for number in range(1, TRIES + 1):
        try:
            with quiet_client():
                return call()
        except ConfigError:
            raise
        except Exception as error:
            if number == TRIES or not is_transient(error):
                # The cause stays out of sight: it may quote headers, and with them the token.
                raise one_sentence(error, repo_id, doing) from None
            log.warning("%s: %s; try %d of %d follows", repo_id, brief(error), number + 1, TRIES)
            time.sleep(FIRST_WAIT_SECONDS * 2 ** (number - 1))
    raise AssertionError("unreachable")


def brief(error: Exception) -> str:
    """An error in a few words, for a log."""
    status = status_of(error)
    return f"the Hub answered {status}" if status else "the connection broke" if is_cut(error) else type(error).__name__


@contextmanager
def quiet_client() -> Iterator[None]:
    """Within it, huggingface_hub shows no bars of its own and logs no addresses: those of uploads are signed."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels, shown = [logger.level for logger in loggers], not are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    if shown and constants.HF_HUB_DISABLE_PROGRESS_BARS is not False:  # else the user's environment insists on them
        disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
        if shown and constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
            enable_progress_bars()
