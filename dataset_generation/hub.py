"""Access to the Hugging Face hub that fails at once, and in one line, if the hub is unreachable."""

from __future__ import annotations

from typing import Any

from common.errors import InputError

PROBE_SECONDS = 5.0
"""How long the hub has to answer; the libraries' own retries take half a minute or more."""


def hub_problem() -> str | None:
    """Why the hub cannot be used, or None if it answers; also None with ``HF_HUB_OFFLINE=1``: the cache may have it."""
    import httpx  # the HTTP client of huggingface_hub, whose errors reach the caller
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return None
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except (httpx.HTTPError, OSError) as error:
        return f"{constants.ENDPOINT} does not answer ({error})"
    return None


def load_hub_dataset(repository: str, way_out: str) -> Any:
    """A ``DatasetDict`` of the hub.

    Args:
        repository: Its name, ``owner/name``.
        way_out: What to do instead if the hub is unreachable; the end of the error message.

    Raises:
        InputError: If the hub does not answer or does not have it.
    """
    problem = hub_problem()
    if problem is not None:
        raise InputError(
            f"cannot load {repository} from the hub: {problem}. A cached copy needs HF_HUB_OFFLINE=1; else {way_out}"
        )
    import httpx
    from datasets.load import load_dataset

    try:
        return load_dataset(repository)
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"cannot load {repository} from the hub: {reason}. Try again, or {way_out}") from error
