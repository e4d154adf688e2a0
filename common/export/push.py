"""Uploads an exported folder to the hub. The token comes only from the environment or the hub's own login."""

from __future__ import annotations

import logging
from pathlib import Path

from common.errors import InputError
from common.hub import refusal

logger = logging.getLogger(__name__)


def push(folder: Path, repository: str, private: bool) -> None:
    """Makes the repository if it is not there, and uploads the folder; a graph of an earlier upload does not stay.

    Args:
        folder: An exported model.
        repository: Name of the repository, ``owner/name``.
        private: Whether a new repository is to be private; otherwise it is what the owner's settings say.

    Raises:
        InputError: If the hub refuses or does not answer.
    """
    import httpx
    from huggingface_hub import HfApi

    from common.export.onnx import GRAPH_FILE, REPORT_FILE

    api = HfApi()
    # RuntimeError is hf_xet's.
    try:
        created = api.create_repo(repository, exist_ok=True, private=True if private else None)
        commit = api.upload_folder(
            repo_id=created.repo_id,
            folder_path=folder,
            commit_message="Model, labels, thresholds and model card",
            # Of other weights; what the folder has is uploaded all the same.
            delete_patterns=[GRAPH_FILE, REPORT_FILE],
        )
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        reason = refusal(error, repository, upload=True)
        raise InputError(
            f"--push-to-hub {repository}: {reason}; the model is in {folder}: hf upload {repository} {folder}"
        ) from error
    logger.info("uploaded: %s", commit)
