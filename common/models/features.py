"""Stores the output of an approach's frozen part: computed once, read in every epoch and every run on the same text.

A store's key is its content: the frozen weights, their modules' configuration, whatever else the computation depends
on, precision, the versions of the computing libraries, and every sub-word of every sentence. A change in any of them
changes the key, so a stored file can be missing but never stale.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from common.approach import Approach, FrozenPart, Predictor
from common.config import RuntimeConfig
from common.data.batching import evaluation_batches
from common.data.dataset import Sentence
from common.device import precision_name, prefetch
from common.errors import TrainingError
from common.files import atomic_path, leftovers, remove_lock
from common.paths import output_root

logger = logging.getLogger(__name__)


def _dtype(precision: str) -> torch.dtype:
    """What features are stored in: at fp32 what was computed, as a tie may hang on a digit; else half precision."""
    return torch.float32 if precision == "fp32" else torch.float16


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """Rows of all sentences, one after another, on the CPU."""

    rows: Tensor
    """Shape ``(all rows, D)``, float32 of a computation in fp32, else float16; in memory or mapped from a file."""
    offsets: Sequence[int]
    """Where each sentence's rows start, and the end of the last."""

    def padded(self, indices: Sequence[int]) -> Tensor:
        """The features of a batch, shape ``(B, longest, D)``, zero behind a sentence's end."""
        return pad_sequence([self.rows[self.offsets[index] : self.offsets[index + 1]] for index in indices], True)


@dataclass(eq=False)
class EncodedSplit:
    """The tokenised sentences of a split, with the stored features of a model's frozen part if it has one."""

    encoded: Sequence[Any]
    """As :class:`Encoded`."""
    store: FeatureStore | None = None
    seconds: float = 0.0
    """What computing the features took; 0 if they were there."""

    @property
    def lengths(self) -> list[int]:
        """The length of each sentence."""
        return [item.length for item in self.encoded]

    def batch(self, model: Predictor, indices: Sequence[int]) -> Any:
        """The padded batch of some sentences."""
        batch = model.collate([self.encoded[index] for index in indices])
        if self.store is not None:
            batch.features = self.store.padded(indices)
        return batch


class FeatureCache:
    """Feature stores by content, in memory or in files that are mapped into it.

    One object shared by several runs computes each store once. Files are shared by all processes and later runs too.

    Args:
        runtime: Whether to store at all, where, and at which batch size to compute.
    """

    def __init__(self, runtime: RuntimeConfig) -> None:
        self.runtime = runtime
        self._stores: dict[str, FeatureStore] = {}

    @property
    def folder(self) -> Path:
        """Where files are; all of it may be deleted at any time that no run uses it."""
        return output_root() / "features"

    def encode(
        self, model: Predictor, sentences: Sequence[Sentence], accelerator: Accelerator, what: str
    ) -> EncodedSplit:
        """Tokenises a split and, if the model has a frozen part and the cache is on, finds or computes its features.

        Args:
            model: The approach, on its device and in evaluation mode.
            sentences: Sentences of the split.
            accelerator: Device and precision.
            what: Name of the split, for logs.
        """
        split = EncodedSplit(model.encode(sentences))
        part = model.frozen_part() if isinstance(model, Approach) else None
        if part is None or self.runtime.feature_cache == "off":
            return split
        start = time.perf_counter()
        key = _key(model, part, split.encoded, accelerator)
        if key in self._stores:
            split.store = self._stores[key]
            return split
        offsets = torch.tensor([0, *map(part.rows, split.encoded)]).cumsum(0).tolist()
        shape, dtype = (offsets[-1], part.width), _dtype(precision_name(accelerator))
        size = math.prod(shape) * dtype.itemsize

        def fill(rows: Tensor | _RowFile) -> None:
            self._compute(rows, model, split, part, offsets, accelerator, what)

        on_disk = self.runtime.feature_cache == "disk" or size / 2**20 > self.runtime.feature_memory_mb
        found, where = False, "in memory"
        if on_disk:
            path = self.folder / f"{key}.{str(dtype).removeprefix('torch.')}"
            where = f"in {path}"
            self.folder.mkdir(parents=True, exist_ok=True)
            # Processes that want the same features wait for the one that computes them.
            with _locked(path):
                # A file that is cut, or that a power loss left with zeros, is as good as none.
                found = path.is_file() and _is_whole(path, size)
                if not found:
                    self._remove_leftovers()
                    _write(path, size, part.width, dtype, fill)
            rows = torch.from_file(str(path), shared=False, size=math.prod(shape), dtype=dtype).view(shape)
        else:
            rows = torch.empty(shape, dtype=dtype)
            fill(rows)
        self._stores[key] = split.store = FeatureStore(rows, offsets)
        split.seconds = 0.0 if found else time.perf_counter() - start
        logger.info(
            "%s: %s features of %d sentences %s, %.0f MiB, %s",
            what, part.name, len(split.encoded), where, size / 2**20,
            "found" if found else f"computed in {split.seconds:.1f} s",
        )  # fmt: skip
        return split

    def _remove_leftovers(self) -> None:
        """Removes what killed processes have left half written, as large as the features; who writes holds the lock."""
        for path in leftovers(self.folder, r"[0-9a-f]{64}\.float(16|32)"):
            with contextlib.suppress(Timeout), _locked(self.folder / path.name[1:].rsplit(".", 2)[0], patience=0):
                path.unlink(missing_ok=True)

    @torch.no_grad()
    def _compute(
        self,
        rows: Tensor | _RowFile,
        model: Predictor,
        split: EncodedSplit,
        part: FrozenPart,
        offsets: Sequence[int],
        accelerator: Accelerator,
        what: str,
    ) -> None:
        """Fills ``rows`` batch by batch, sentences of like length together."""
        batches = evaluation_batches(split.lengths, self.runtime.eval_batch_size)
        progress = tqdm(batches, desc=f"{part.name}: {what}", disable=not self.runtime.bars, leave=False)
        loaded = prefetch(lambda chosen: split.batch(model, chosen), batches, accelerator.device)
        for indices, batch in zip(progress, loaded, strict=True):
            with accelerator.autocast():
                output = part.compute(batch)
            output = output.to("cpu", rows.dtype)
            for row, index in enumerate(indices):
                values = output[row, : offsets[index + 1] - offsets[index]]
                if not bool(values.isfinite().all()):
                    raise TrainingError(
                        f"{part.name}: its output for sentence {index} of {what} is not finite in {rows.dtype} "
                        f"({' '.join(split.encoded[index].sentence.words[:8])} ...); use --precision fp32"
                    )
                rows[offsets[index] : offsets[index + 1]] = values


@dataclass(frozen=True, eq=False)
class _RowFile:
    """Rows that are written to a file, not mapped from it: on a full disk a map kills the process without a word."""

    stream: IO[bytes]
    width: int
    dtype: torch.dtype

    def __setitem__(self, place: slice, values: Tensor) -> None:
        self.stream.seek(place.start * self.width * self.dtype.itemsize)
        self.stream.write(values.to(self.dtype).contiguous().numpy().tobytes())


def _write(path: Path, size: int, width: int, dtype: torch.dtype, fill: Callable[[_RowFile], None]) -> None:
    """Has features written straight into a file, of ``size`` bytes, that appears when it is whole."""
    with atomic_path(path) as temporary, temporary.open("r+b") as stream:
        if hasattr(os, "posix_fallocate"):
            # A disk without room for it all says so now and not after an hour.
            os.posix_fallocate(stream.fileno(), 0, size + _CHECKSUM_BYTES)
        fill(_RowFile(stream, width, dtype))
        checksum = _checksum(stream, size)
        stream.seek(size)
        stream.write(checksum)


_CHECKSUM_BYTES = 4
"""At the end of a file of features."""


def _checksum(stream: IO[bytes], size: int) -> bytes:
    """The CRC-32 of a file's first bytes."""
    stream.seek(0)
    value, left = 0, size
    while left and (chunk := stream.read(min(left, 2**24))):
        value, left = zlib.crc32(chunk, value), left - len(chunk)
    return value.to_bytes(_CHECKSUM_BYTES, "little")


def _is_whole(path: Path, size: int) -> bool:
    """Whether a file has the rows that were written to it."""
    if path.stat().st_size != size + _CHECKSUM_BYTES:
        return False
    with path.open("rb") as stream:
        # The checksum read leaves the place behind the rows, where the stored one is.
        return _checksum(stream, size) == stream.read()


@contextlib.contextmanager
def _locked(path: Path, patience: float = -1) -> Iterator[None]:
    """Keeps other processes from a file, and leaves no file of the lock behind."""
    with FileLock(f"{path}.lock", timeout=patience):
        try:
            yield
        finally:
            remove_lock(Path(f"{path}.lock"))


def _key(model: object, part: FrozenPart, encoded: Sequence[Any], accelerator: Accelerator) -> str:
    """The content hash of what the features are computed from."""
    digest = hashlib.sha256()
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers", "gliner")]
    where = precision_name(accelerator), accelerator.device.type
    digest.update(repr((part.name, part.width, part.settings, *where, versions)).encode())
    modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
    for path in part.modules:
        if path in modules:
            for name, tensor in modules[path].state_dict().items():
                digest.update(f"{path}.{name}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for item in encoded:
        digest.update(part.content(item))
    return digest.hexdigest()
