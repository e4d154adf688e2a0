"""The Hugging Face hub: fetches a repository's files, from the cache if the hub does not answer."""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from common.errors import InputError, hide_credentials

logger = logging.getLogger(__name__)

Kind = Literal["model", "dataset"]
"""Kind of repository."""

PROBE_SECONDS = 5.0
"""How long the hub has to answer at all; the libraries' own retries take half a minute or more."""

ANSWER_SECONDS = 30.0
"""How long it has to say which commit a revision is."""

TEXT_FILES = ("*.json", "*.txt", "*.model")
"""Configurations and vocabularies, whatever the tokenizer."""

SILENCE_SECONDS = 30.0
"""For how long a hub that did not answer is not asked again."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_silent: dict[str, tuple[float, str]] = {}
"""When an endpoint did not answer, and why."""


def split_revision(source: str) -> tuple[str, str | None]:
    """The repository of ``OWNER/NAME@REVISION``, and its branch, tag or commit; None if none is named."""
    repository, _, revision = source.partition("@")
    return repository, revision or None


def is_hub_id(source: str) -> bool:
    """Whether a text has the form ``OWNER/NAME`` or ``OWNER/NAME@REVISION`` and does not begin like a path."""
    is_path = Path(source).is_absolute() or source.startswith((".", "~"))
    return not is_path and split_revision(source)[0].count("/") == 1


def hub_problem() -> str | None:
    """Why the hub cannot be asked, None if it answers."""
    import httpx  # the HTTP client of huggingface_hub, whose errors reach the caller
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    since, problem = _silent.get(constants.ENDPOINT, (0.0, ""))
    if problem and time.monotonic() - since < SILENCE_SECONDS:
        return problem
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        problem = f"{_endpoint()} does not answer ({_one_line(error)}; HF_ENDPOINT can name a mirror)"
        _silent[constants.ENDPOINT] = time.monotonic(), problem
        return problem
    return None


def snapshot(repository: str, files: Sequence[str], revision: str | None = None, kind: Kind = "model") -> Path:
    """The folder of a repository at one commit, the folder's name, with the files asked for.

    What the cache has is not loaded again. If the hub does not answer, or refuses what it gave before, the cache's copy
    is used, with a warning.

    Args:
        repository: ``owner/name``.
        files: Patterns of the files that are wanted.
        revision: Branch, tag or commit; the newest commit if None.
        kind: Kind of repository.

    Raises:
        InputError: If neither the hub nor the cache has it; the message is what follows the repository's name.
    """
    from huggingface_hub import snapshot_download

    def load(*, local: bool) -> str:
        if not local:
            # snapshot_download would fall back to the cache without a word, and wait for an answer without end.
            _ask(repository, revision, kind)
        return snapshot_download(
            repository, repo_type=kind, revision=revision, allow_patterns=list(files), local_files_only=local
        )

    return Path(_hub_or_cache(load, repository, revision, kind))


def commit_of(repository: str, revision: str | None = None, kind: Kind = "model") -> str:
    """The commit that :func:`snapshot` would load now; nothing is loaded.

    Raises:
        InputError: As :func:`snapshot`.
    """
    from huggingface_hub import snapshot_download

    def find(*, local: bool) -> str:
        if not local:
            return _ask(repository, revision, kind)
        return snapshot_download(
            repository, repo_type=kind, revision=revision, allow_patterns=[], local_files_only=True
        )

    return Path(_hub_or_cache(find, repository, revision, kind)).name


def _ask(repository: str, revision: str | None, kind: Kind) -> str:
    """Asks the hub for the commit of a revision that is none."""
    from huggingface_hub import HfApi

    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    return str(HfApi().repo_info(repository, repo_type=kind, revision=revision, timeout=ANSWER_SECONDS).sha)


def _hub_or_cache(load: Callable[..., str], repository: str, revision: str | None, kind: Kind) -> str:
    """What ``load(local=False)`` gets from the hub, or else ``load(local=True)`` from the cache."""
    import httpx
    from huggingface_hub import constants

    reason = hub_problem()
    unreachable = reason is not None
    if not unreachable:
        try:
            return load(local=False)
        # RuntimeError is hf_xet's.
        except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
            reason = refusal(error, repository if kind == "model" else f"{kind}s/{repository}", revision)
    try:
        found = load(local=True)
    except (OSError, ValueError) as error:
        absent = f", and the cache ({constants.HF_HUB_CACHE}) does not have it" if unreachable else ""
        raise InputError(f"{reason}{absent}") from error
    if not constants.is_offline_mode():
        _warn(f"{repository}: {reason}; the copy in the cache is used, commit {Path(found).name}")
    return found


@functools.cache
def _warn(message: str) -> None:
    """Says it once."""
    logger.warning("%s", message)


def refusal(error: BaseException, page: str, revision: str | None = None, *, upload: bool = False) -> str:
    """What went wrong and what the user can do, without a word of the token.

    Args:
        error: An error of huggingface_hub's.
        page: The repository's.
        revision: What was asked for.
        upload: Whether something was sent, not loaded.
    """
    import httpx
    from huggingface_hub import constants, errors

    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, ConnectionError):
            place = cause.filename or constants.HF_HUB_CACHE
            return f"the cache cannot be written: {place}: {cause.strerror}; HF_HOME can name another place for it"
        if isinstance(cause, errors.GatedRepoError):
            return (
                f"it is gated: ask for access at {_endpoint()}/{page}, then give your token, "
                "HF_TOKEN=... or hf auth login"
            )
        if isinstance(cause, errors.RepositoryNotFoundError):
            return (
                f"{_endpoint()} has no such repository, or it is private: a token that may read it is given as "
                "HF_TOKEN=... or by hf auth login"
            )
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"it has no revision {revision!r}"
        if isinstance(cause, errors.HfHubHTTPError):
            status = cause.response.status_code
            refused = {401: "the token (HF_TOKEN) is not valid", 403: "the token (HF_TOKEN) has no permission"}
            return f"{_endpoint()} answers {status}: {refused.get(status, 'try again later')}"
        if isinstance(cause, httpx.LocalProtocolError):
            # Its message shows the header.
            return "the token (HF_TOKEN) holds characters that no token has"
        if isinstance(cause, httpx.HTTPError):
            if upload:
                return f"the upload broke off ({_one_line(cause)})"
            return f"the download broke off ({_one_line(cause)}); the same command goes on, whole files are kept"
    return _one_line(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of, from the cause on."""
    while error is not None:
        yield error
        error = error.__cause__


def _endpoint() -> str:
    """The hub's address as it may be shown."""
    from huggingface_hub import constants

    return hide_credentials(constants.ENDPOINT)


def _one_line(error: BaseException) -> str:
    return hide_credentials(" ".join(str(error).split()))[:200] or type(error).__name__
