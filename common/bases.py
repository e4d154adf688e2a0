"""GLiNER base models, from a demo base, a folder or the hub. gliner itself is imported only to load one."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

from safetensors import safe_open

from common.config import require
from common.errors import InputError
from common.files import is_lfs_pointer, read_json, sha256_file
from common.hub import TEXT_FILES, commit_of, is_hub_id, snapshot, split_revision
from common.models.base import NO_LIMIT, Base
from common.models.published import DEFAULT_BASE, DEMO_BASES, DEMO_ENCODER, MINILM_ID, NEW_BASE, base_name
from common.models.sources import OF_BROKEN_FILES, code_in, reason_of
from common.schema import Rule, check
from common.spec import BaseSource


def load_base(source: str, kind: str | None, revision: str | None = None) -> Base:
    """Loads a span-level GLiNER model on the CPU in float32.

    A base model is data: one that names code to be run is refused before anything of it is loaded.

    Args:
        source: Hub id, with ``@REVISION`` if another than the newest is wanted, folder of a saved GLiNER model, or
            ``demo-bi`` / ``demo-cross``, or ``new:ENCODER`` for a fresh one on an encoder: hub id, folder, or
            ``demo-minilm``.
        kind: ``bi`` or ``cross``, the kind of encoder that the approach needs; whichever it has if None.
        revision: Commit of a hub model whose ``source`` names no revision.

    Raises:
        InputError: If it cannot be found, is of another kind, names code, or its weights are not exactly those of the
        model.
    """
    if source.startswith(NEW_BASE):
        return _new_base(source, kind, revision)
    place = _locate(source, revision)
    folder, weights = _fetched(source, place)
    _fetch_encoders(source, folder)
    # Late: a base that is not there is an error of the first second.
    from gliner import GLiNER
    from gliner.model import BiEncoderSpanGLiNER, UniEncoderSpanGLiNER

    try:
        with warnings.catch_warnings(), _no_code():
            warnings.simplefilter("ignore", FutureWarning)
            # A bi-encoder has no embeddings to resize, and gliner says so each time.
            warnings.filterwarnings("ignore", message="Resizing embeddings")
            gliner = GLiNER.from_pretrained(str(folder), local_files_only=True, map_location="cpu")
    except OF_BROKEN_FILES as error:
        # Whatever a broken file makes gliner, transformers or torch raise, the user's answer is the same; a defect of
        # ours would look alike, so the whole error stays its cause.
        raise _unavailable(source, error) from error
    kinds = {"bi": BiEncoderSpanGLiNER, "cross": UniEncoderSpanGLiNER}
    found = next((name for name, wanted in kinds.items() if type(gliner) is wanted), None)
    if found is None or kind not in (None, found):
        needed = " or a ".join(wanted.__name__ for name, wanted in kinds.items() if kind in (None, name))
        approaches = f"the {kind}-encoder approaches need" if kind else "needed is"
        raise InputError(f"base model {source!r} is a {type(gliner).__name__}; {approaches} a {needed}")
    _check_weights(source, gliner, weights)
    gliner.float().eval()
    _limit_length(gliner)
    if place.repository is not None:
        return Base(gliner, found, place.repository, place.repository, folder.name)
    stored_as = source if source in DEMO_BASES else str(Path(source).resolve())
    return Base(gliner, found, source, stored_as, _weights_hash(weights))


def base_revision(source: str) -> str:
    """The revision that :func:`load_base` would give, without loading any weights.

    Raises:
        InputError: If there is no such base model.
    """
    place = _encoder_place(source) if source.startswith(NEW_BASE) else _locate(source)
    if place.repository is not None:
        return place.commit()
    return _weights_hash(_weights_file(source, place.files([])))


def base_file(source: str, name: str) -> Path | None:
    """A JSON file beside a base model's configuration, None if there is none of this name.

    Raises:
        InputError: If there is no such base model.
    """
    if source in DEMO_BASES:
        return None
    path = _locate(source).files(TEXT_FILES) / name
    return path if path.is_file() else None


GLINER = BaseSource(load_base, base_revision, DEFAULT_BASE)
"""GLiNER models."""


_CONFIGURATION_FILE = "gliner_config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files that gliner loads weights from, the first that is there; one in pickle's format is read as tensors alone."""


class _Place(NamedTuple):
    folder: Path | None
    """Where it is on this machine, None if it is on the hub."""
    repository: str | None = None
    """Its hub id."""
    revision: str | None = None
    """Branch, tag or commit; the newest commit if None."""

    def files(self, names: Sequence[str]) -> Path:
        """A folder in which the files of some patterns are, if the base model has them."""
        if self.folder is not None:
            return self.folder
        assert self.repository is not None
        try:
            return snapshot(self.repository, names, self.revision)
        except InputError as error:
            raise _unavailable(self.repository, error) from error

    def commit(self) -> str:
        """The commit of a base model of the hub, as it would be loaded now."""
        assert self.repository is not None
        try:
            return commit_of(self.repository, self.revision)
        except InputError as error:
            raise _unavailable(self.repository, error) from error


def _locate(source: str, revision: str | None = None) -> _Place:
    """Where a base model is; a demo base is built if it is not there yet."""
    if source in DEMO_BASES:
        from common.demo_base import demo_base_dir

        return _Place(demo_base_dir(source))
    if Path(source).is_dir():
        if not (Path(source) / _CONFIGURATION_FILE).is_file():
            raise InputError(f"base model folder {source!r} has no {_CONFIGURATION_FILE}, so it holds no GLiNER model")
        return _Place(Path(source))
    if not is_hub_id(source):
        raise InputError(
            f"base model {source!r} is neither a folder nor a hub id (owner/name) nor one of {sorted(DEMO_BASES)}"
        )
    repository, named = split_revision(source)
    return _Place(None, repository, named or revision)


_NEW_SEED = 0
"""Of all weights of a fresh GLiNER that are not of its encoder: with it they are the same on every machine."""


def _new_base(source: str, kind: str | None, revision: str | None) -> Base:
    """A fresh GLiNER; its revision is that of the encoder."""
    import torch

    from common.models.fresh import fresh_gliner

    require(kind is not None, f"base model {source!r}: is new, so nothing says whether it is bi or cross")
    place, found = _encoder_place(source, revision), str(kind)
    folder, weights = _fetched(source, place)
    # A bi-encoder has a BiLSTM and never calls it.
    settings = {"num_rnn_layers": 0} if found == "bi" else {}
    name = MINILM_ID if source == NEW_BASE + DEMO_ENCODER else base_name(source).removeprefix(NEW_BASE)
    try:
        with _no_code(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(_NEW_SEED)
            gliner: Any = fresh_gliner(found, folder, name, **settings)
    except OF_BROKEN_FILES as error:
        raise _unavailable(source, error) from error
    gliner.float().eval()
    _limit_length(gliner)
    if place.repository is not None:
        location = NEW_BASE + place.repository
        return Base(gliner, found, location, location, folder.name)
    encoder = source.removeprefix(NEW_BASE)
    kept = encoder if encoder == DEMO_ENCODER else str(Path(encoder).resolve())
    return Base(gliner, found, source, NEW_BASE + kept, _weights_hash(weights))


def _encoder_place(source: str, revision: str | None = None) -> _Place:
    """Where the encoder of a fresh GLiNER is."""
    encoder = source.removeprefix(NEW_BASE)
    if encoder == DEMO_ENCODER:
        from common.demo_base import encoder_dir

        return _Place(encoder_dir())
    if encoder and Path(encoder).is_dir():
        require(
            not (Path(encoder) / _CONFIGURATION_FILE).is_file(),
            f"base model {source!r}: the folder holds a GLiNER, not an encoder; give it without {NEW_BASE}",
        )
        return _Place(Path(encoder))
    if not is_hub_id(encoder):
        raise InputError(
            f"base model {source!r}: the encoder is neither a folder nor a hub id (owner/name) nor {DEMO_ENCODER}"
        )
    repository, named = split_revision(encoder)
    return _Place(None, repository, named or revision)


def _fetched(source: str, place: _Place) -> tuple[Path, Path]:
    """The folder of a base model, or of an encoder, and its file of weights; what is checked is what is loaded."""
    folder = place.files(TEXT_FILES)
    if place.repository is not None:
        place = place._replace(revision=folder.name)
    _check_configuration(source, folder)
    for name in _WEIGHTS:
        folder = place.files((*TEXT_FILES, name))
        if (folder / name).is_file():
            break
    weights = _weights_file(source, folder)
    if is_lfs_pointer(weights):
        raise InputError(
            f"base model {source!r}: {weights.name} is a Git LFS pointer, not the weights; run: git lfs pull"
        )
    return folder, weights


def _unavailable(source: str, error: Exception) -> InputError:
    ways = f"a folder of a saved GLiNER model or one of {sorted(DEMO_BASES)} as --base-model"
    if source.startswith(NEW_BASE):
        ways = f"a folder of an encoder or {DEMO_ENCODER} behind {NEW_BASE}"
    return InputError(f"base model {source!r} could not be loaded: {reason_of(error)}. Without the hub, give {ways}")


class _Configuration(TypedDict, total=False):
    """What of ``gliner_config.json`` is used before gliner has looked at it, or makes memory run out."""

    model_name: str | None
    labels_encoder: str | None
    encoder_config: dict[str, Any] | None
    labels_encoder_config: dict[str, Any] | None
    max_width: Annotated[int, Rule("between 1 and 1000", lambda value: 1 <= value <= 1000)]
    max_len: Annotated[int, Rule("at least 1", lambda value: value >= 1)] | None
    hidden_size: Annotated[int, Rule("between 1 and 100000", lambda value: 1 <= value <= 100_000)]


def _check_configuration(source: str, folder: Path) -> None:
    """Refuses configurations that name code, in the folder and those of its tokenizers."""
    for path in sorted([*folder.glob("*config.json"), *folder.glob("*/*config.json")]):
        try:
            values = read_json(path)
            if path == folder / _CONFIGURATION_FILE:
                check(values, _Configuration, str(path))
        except InputError as error:
            raise _unavailable(source, error) from error
        named = code_in(values)
        if named is not None:
            raise InputError(
                f"base model {source!r}: {path.relative_to(folder)} names code to be run, {named}; a base model is "
                "data and none of its code is run"
            )


def _fetch_encoders(source: str, folder: Path) -> None:
    """Brings what many GLiNER models leave to their encoders' repositories, tokenizer and configuration, to the cache.

    gliner finds it there, and asks the hub for nothing itself: transformers would ask for each file, with retries.
    """
    values = read_json(folder / _CONFIGURATION_FILE)
    for encoder, configuration, tokenizer in (
        (values.get("model_name"), values.get("encoder_config"), folder),
        (values.get("labels_encoder"), values.get("labels_encoder_config"), folder / "labels_tokenizer"),
    ):
        if encoder is None or (configuration and (tokenizer / "tokenizer_config.json").is_file()):
            continue
        if Path(encoder).is_dir() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", encoder):
            continue
        try:
            snapshot(encoder, TEXT_FILES)
        except InputError as error:
            lacks = "tokenizer (tokenizer_config.json)" if configuration else "configuration of its encoder"
            raise _unavailable(
                source, InputError(f"it has no {lacks}, and that of {encoder!r} is not available: {error}")
            ) from error


@contextlib.contextmanager
def _no_code() -> Iterator[None]:
    """Whatever a configuration leads to, such as an encoder on the hub, transformers imports none of its code.

    gliner passes ``trust_remote_code=True``, and transformers has no switch against that.
    """
    from transformers import dynamic_module_utils as modules

    def refuse(repository: Any, *_: Any, **__: Any) -> str:
        raise InputError(f"{repository} names code to be run")

    changes: dict[str, Any] = {"get_cached_module_file": refuse, "TIME_OUT_REMOTE_CODE": 0}
    before = {name: getattr(modules, name) for name in changes}
    for name, value in changes.items():
        setattr(modules, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(modules, name, value)


def _check_weights(source: str, gliner: Any, file: Path) -> None:
    """Refuses a file that lacks or adds tensors or holds no finite numbers: gliner would fill gaps at random."""
    stored, model = _stored_tensors(gliner, file), gliner.model
    state = model.state_dict()
    # Tied tensors are stored under one of their names.
    given = {tensor.data_ptr() for name, tensor in state.items() if name in stored}
    missing = [name for name, tensor in state.items() if name not in stored and tensor.data_ptr() not in given]
    # Earlier versions of transformers stored position ids, which are counted anew.
    counted = {name for name, _ in model.named_buffers()} - set(state)
    added = [name for name in stored if name not in state and name not in counted and not name.endswith("position_ids")]
    if missing or added:
        raise InputError(
            f"base model {source!r}: {file.name} does not hold the weights of its model: {len(missing)} missing "
            f"{missing[:3]}, {len(added)} unexpected {added[:3]}"
        )
    for name, tensor in state.items():
        if tensor.is_floating_point() and not (stored.get(name, True) and bool(tensor.isfinite().all())):
            raise InputError(f"base model {source!r}: {file.name}: tensor {name} has values that are no finite numbers")


def _stored_tensors(gliner: Any, file: Path) -> dict[str, bool]:
    """Names of the tensors in a file of weights that was loaded before, and whether each is of floating point."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            stored = {name: "F" in tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
            aliases = tensors.metadata() or {}
        return stored | {name: stored[kept] for name, kept in aliases.items() if kept in stored}
    # gliner reads tensors alone from a file in pickle's format.
    loaded = gliner._load_state_dict(file, map_location="meta")
    return {name: tensor.is_floating_point() for name, tensor in loaded.items()}


def _weights_file(source: str, folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"base model {source!r} has no weights file ({' or '.join(_WEIGHTS)})")


def _weights_hash(file: Path) -> str:
    return f"sha256:{sha256_file(file)}"


def _limit_length(gliner: Any) -> None:
    """Makes the tokenizers cut at the encoders' last position, which some of them do not know."""
    layer, config = gliner.model.token_rep_layer, gliner.config
    encoders = [(gliner.data_processor.transformer_tokenizer, config.encoder_config, layer.bert_layer)]
    if getattr(config, "labels_encoder", None) is not None:
        encoders.append((gliner.data_processor.labels_tokenizer, config.labels_encoder_config, layer.labels_encoder))
    for tokenizer, settings, encoder in encoders:
        # DeBERTa-v2 has relative positions alone unless its input is biased by absolute ones.
        biased = getattr(settings, "position_biased_input", True)
        limit = settings.max_position_embeddings - _first_position(encoder) if biased else NO_LIMIT
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)


def _first_position(encoder: Any) -> int:
    """The position of a text's first sub-word: RoBERTa and its like count from behind that of padding."""
    tables = (module for name, module in encoder.named_modules() if name.endswith(".position_embeddings"))
    paddings = [padding for table in tables if (padding := getattr(table, "padding_idx", None)) is not None]
    return max(paddings, default=-1) + 1
