"""Causal language models as base models: from the hub, a folder, or ``demo-llm``. Imports nothing heavy.

Configuration and tokenizer are loaded first, the weights only when an approach builds its model: it may want them
quantised, without their output layer, or read in both directions.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.config import RuntimeConfig
from common.errors import InputError
from common.files import is_lfs_pointer, read_json, sha256_file
from common.hub import TEXT_FILES, commit_of, is_hub_id, snapshot, split_revision
from common.models.config import Attention, Quantization
from common.models.published import DEMO_LANGUAGE_MODEL, base_name
from common.models.sources import OF_BROKEN_FILES, code_in, quiet_transformers, reason_of
from common.spec import BaseSource

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

KIND = "causal"
"""Kind of these base models."""

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OUTPUT_LAYERS = ("lm_head.", "embed_out.", "output_projection.")
"""Names of the layer that predicts the next token, by families of models."""
_COUNTED_ANEW = "rotary_emb.inv_freq"
"""A buffer that earlier versions of transformers stored."""


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model whose weights are still to be loaded."""

    tokenizer: Any
    """A fast tokenizer; it has a padding token."""
    config: Any
    """The configuration of transformers."""
    source: str
    """Hub id, folder or ``demo-llm``, as the user gave it."""
    location: str
    """Hub id, ``demo-llm`` or absolute path: what loads it again from any working directory."""
    revision: str
    """Commit of a hub model, or ``sha256:`` of a local model's weights."""
    folder: Path
    """Where its files are on this machine; the weights of a hub model come when they are asked for."""
    kind: str = KIND

    @property
    def name(self) -> str:
        """Hub id or folder name, as results show it."""
        return base_name(self.source)

    @property
    def limit(self) -> int:
        """Sub-words that it reads at most."""
        text = self.config.get_text_config()
        positions = getattr(text, "max_position_embeddings", None) or self.tokenizer.model_max_length
        return int(min(positions, self.tokenizer.model_max_length))

    def network(
        self,
        *,
        output_layer: bool,
        attention: Attention = "causal",
        quantization: Quantization = "none",
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        implementation: Literal["sdpa", "eager"] = "sdpa",
    ) -> PreTrainedModel:
        """Loads the weights, in evaluation mode.

        Args:
            output_layer: With the layer that predicts the next token, as generation needs it; else the decoder alone,
                whose output is hidden states.
            attention: ``causal``, as it was trained, or ``bidirectional``: each token also sees those behind it.
            quantization: ``nf4``: linear layers but the output layer in 4 bits (Dettmers et al. 2023, arXiv
                2305.14314), by bitsandbytes, double quantisation.
            dtype: Of all other weights, and of the arithmetic of quantised ones; float32 if not given.
            device: Kind of device to quantise on; without quantisation the weights are on the CPU.
            implementation: Of the attention.

        Raises:
            InputError: If the weights are not exactly those of the model, hold values that are no finite numbers, a
                package is missing, or the model cannot be read in both directions.
        """
        import torch
        from transformers import AutoModel, AutoModelForCausalLM, BitsAndBytesConfig

        from common.models.attention import use_lean_attention

        dtype = dtype or torch.float32
        options: dict[str, Any] = {
            "dtype": dtype, "attn_implementation": implementation, "local_files_only": True, "use_safetensors": True,
            "trust_remote_code": False, "output_loading_info": True, "ignore_mismatched_sizes": True,
        }  # fmt: skip
        if quantization == "nf4":
            _require_bitsandbytes()
            options["device_map"] = {"": device}
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
                llm_int8_skip_modules=[name.rstrip(".") for name in _OUTPUT_LAYERS],
            )
        self._fetch_weights()
        try:
            kind: Any = AutoModelForCausalLM if output_layer else AutoModel
            with quiet_transformers():
                network, loaded = kind.from_pretrained(self.folder, **options)
        except OF_BROKEN_FILES as error:
            raise InputError(f"base model {self.source!r} could not be loaded: {reason_of(error)}") from error
        network.eval()
        use_lean_attention(network)
        for module in network.modules():
            # On a CPU with bf16 units bitsandbytes repacks a layer at its first forward pass in evaluation mode, for a
            # product that has no gradient, in training either.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        self._check_weights(network, loaded, output_layer)
        if attention == "bidirectional":
            network.config.is_causal = False
            if not sees_what_follows(network):
                raise InputError(
                    f"--attention bidirectional: base model {self.source!r} ({type(network).__name__}) stays causal "
                    "in this version of transformers"
                )
        return network

    def _fetch_weights(self) -> None:
        """Loads the weights' files of a hub model into its folder.

        Raises:
            InputError: If the hub or its cache does not have them.
        """
        if self.revision.startswith("sha256:"):
            return
        names = _weight_files(self.folder, self.source)
        try:
            snapshot(self.source, names, self.revision)
        except InputError as error:
            raise _unavailable(self.source, error) from error
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise InputError(f"base model {self.source!r} has no weights in safetensors ({missing[0]})")

    def _check_weights(self, network: PreTrainedModel, loaded: Any, output_layer: bool) -> None:
        """Refuses weights that lack or add tensors, which transformers would fill at random, or hold no numbers."""
        wrong = {item[0] for item in loaded["mismatched_keys"]}
        missing = sorted({*loaded["missing_keys"], *wrong})
        added = sorted(
            name
            for name in loaded["unexpected_keys"]
            if not name.endswith(_COUNTED_ANEW) and (output_layer or not name.startswith(_OUTPUT_LAYERS))
        )
        if missing or added:
            raise InputError(
                f"base model {self.source!r}: its files do not hold the weights of a {type(network).__name__}: "
                f"{len(missing)} missing or of another shape {missing[:3]}, {len(added)} unexpected {added[:3]}"
            )
        for name, parameter in network.named_parameters():
            if parameter.is_floating_point() and not bool(parameter.isfinite().all()):
                raise InputError(f"base model {self.source!r}: tensor {name} has values that are no finite numbers")


def load_language_model(source: str, kind: str | None, revision: str | None = None) -> LanguageModel:
    """Finds a causal language model and loads its configuration and tokenizer.

    A base model is data: one that names code to be run is refused.

    Args:
        source: Hub id, with ``@REVISION`` if another than the newest is wanted, folder of a saved model, or
            ``demo-llm``.
        kind: ``causal``, or None for whatever it is.
        revision: Commit of a hub model whose ``source`` names no revision.

    Raises:
        InputError: If it cannot be found, is no causal language model, names code or has no fast tokenizer.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind not in (None, KIND):
        raise InputError(f"base model {source!r} is a causal language model; needed is one of kind {kind!r}")
    local = _local_folder(source)
    repository, named = split_revision(source)
    try:
        folder = local or snapshot(repository, (*TEXT_FILES, "*.jinja"), named or revision)
    except InputError as error:
        raise _unavailable(source, error) from error
    values = read_json(folder / "config.json")
    code = code_in(values)
    if code is not None:
        raise InputError(f"base model {source!r}: config.json names code to be run, {code}; none of its code is run")
    family = values.get("model_type") if isinstance(values, dict) else None
    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(f"base model {source!r}: config.json: model_type {family!r} is no causal language model")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except OF_BROKEN_FILES as error:
        raise InputError(f"base model {source!r} could not be loaded: {reason_of(error)}") from error
    if not tokenizer.is_fast:
        raise InputError(f"base model {source!r}: its tokenizer ({type(tokenizer).__name__}) does not give offsets")
    if tokenizer.pad_token is None:
        # Padding is masked: any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    if local is None:
        return LanguageModel(tokenizer, config, repository, repository, folder.name, folder)
    location = source if source == DEMO_LANGUAGE_MODEL else str(folder.resolve())
    return LanguageModel(tokenizer, config, source, location, _weights_hash(folder, source), folder)


def language_model_revision(source: str) -> str:
    """The revision that :func:`load_language_model` would give.

    Raises:
        InputError: If there is no such model.
    """
    local = _local_folder(source)
    if local is not None:
        return _weights_hash(local, source)
    try:
        return commit_of(*split_revision(source))
    except InputError as error:
        raise _unavailable(source, error) from error


def language_models(default: str) -> BaseSource:
    """Causal language models, for an approach's specification.

    Args:
        default: Hub id of the approach's default.
    """
    return BaseSource(load_language_model, language_model_revision, {KIND: default})


def kind_of_device(runtime: RuntimeConfig) -> str:
    """The kind of device to load weights for: the CPU where the one asked for, as by a checkpoint, is not here."""
    from common.device import resolve_device

    try:
        return resolve_device(runtime.device)
    except InputError:
        return "cpu"


def frozen_dtype(runtime: RuntimeConfig) -> torch.dtype:
    """What frozen weights are kept in: bf16 on a GPU that computes in it, else float32.

    On a CPU ``auto`` is a measurement, which must not change what a checkpoint's base is.
    """
    import torch

    from common.device import resolve_precision

    device = kind_of_device(runtime)
    half = device == "cuda" and resolve_precision(runtime.precision, device) == "bf16"
    return torch.bfloat16 if half else torch.float32


def sees_what_follows(network: PreTrainedModel) -> bool:
    """Whether a later token changes the first one's state.

    transformers has had versions in which a network asked to read in both directions silently stayed causal.
    """
    import torch

    device = next(network.parameters()).device
    # Two texts that differ in their last token.
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]], device=device) % network.config.get_text_config().vocab_size
    with torch.no_grad():
        states = network(ids, output_hidden_states=True, use_cache=False).hidden_states[-1].float()
    return not torch.allclose(states[0, 0], states[1, 0], rtol=1e-5, atol=0)


def _require_bitsandbytes() -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("--quantization nf4 needs the package bitsandbytes: pip install -e '.[llm]'")


def _local_folder(source: str) -> Path | None:
    """The folder of a local model, None for a hub id; the demo model is converted if it is not there yet."""
    if source == DEMO_LANGUAGE_MODEL:
        from common.models.demo_llm import demo_llm_dir

        return demo_llm_dir()
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"base model folder {source!r} has no config.json, so it holds no language model")
        return path
    if not is_hub_id(source):
        raise InputError(
            f"base model {source!r} is neither a folder nor a hub id (owner/name) nor {DEMO_LANGUAGE_MODEL}"
        )
    return None


def _unavailable(source: str, error: Exception) -> InputError:
    return InputError(
        f"base model {source!r} could not be loaded: {reason_of(error)}. Without the hub, give a folder of a saved "
        f"language model or {DEMO_LANGUAGE_MODEL} as --base-model"
    )


def _weight_files(folder: Path, source: str) -> list[str]:
    """Names of the files with the weights.

    Raises:
        InputError: If the index of several files is none.
    """
    if not (folder / _INDEX).is_file():
        return [_WEIGHTS]
    index = read_json(folder / _INDEX)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files or not all(_is_weights(name) for name in files.values()):
        raise InputError(f"base model {source!r}: {_INDEX}: weight_map must be an object of .safetensors files")
    return sorted(set(files.values()))


def _is_weights(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _weights_hash(folder: Path, source: str) -> str:
    """``sha256:`` of a local model's weights; of the files' hashes where there are several."""
    hashes = []
    for name in _weight_files(folder, source):
        if not (folder / name).is_file():
            raise InputError(f"base model folder {source!r} has no {name}")
        if is_lfs_pointer(folder / name):
            raise InputError(f"base model {source!r}: {name} is a Git LFS pointer, not the weights; run: git lfs pull")
        hashes.append(sha256_file(folder / name))
    return f"sha256:{hashes[0] if len(hashes) == 1 else hashlib.sha256(' '.join(hashes).encode()).hexdigest()}"
