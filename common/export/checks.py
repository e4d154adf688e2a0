"""Checks made before anything is loaded, so that wrong options fail at once."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from common.config import require
from common.errors import InputError
from common.hub import hub_problem

ONNX_PACKAGES = ("onnx", "onnxruntime")


def check_free(output: Path) -> None:
    """Raises ``InputError`` if a folder to write exists and is not empty."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output {output}: exists and is no empty folder")


def check_onnx() -> None:
    """Raises ``InputError`` if a package that the export to ONNX needs is not installed."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    require(
        not missing, f"--onnx: not installed: {', '.join(missing)}; install the extra onnx: pip install -e '.[onnx]'"
    )


def check_push(repository: str) -> None:
    """Raises ``InputError`` if nothing could be uploaded to a repository: a wrong name, no token, no hub."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"--push-to-hub {repository!r}: {error}") from error
    require(get_token() is not None, "--push-to-hub: no token; set HF_TOKEN, or log in once with: hf auth login")
    problem = hub_problem()
    require(problem is None, f"--push-to-hub: {problem}")
