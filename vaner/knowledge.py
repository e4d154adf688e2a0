"""Finds names for DBR: ``python -m vaner.knowledge --dataset bc5cdr --names names.tsv.gz``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.config import Device, Precision, on_screen, parse, require
from common.data.dataset import existing_dataset_dir, load_dataset
from common.script import run_script

logger = logging.getLogger(__name__)

SAPBERT = "cambridgeltl/SapBERT-from-PubMedBERT-fulltext"
"""The paper's encoder of names (Liu et al. 2021)."""


@dataclass(frozen=True)
class KnowledgeConfig:
    """Find the knowledge-base names that are like each training sentence's phrases. A killed build resumes."""

    dataset: str
    """Name of a generated data set (a folder of datasets/) or the path of such a folder."""
    names: tuple[Path, ...] = ()
    """Tables of names, one per line: a name, a tab and its type; .gz is unpacked."""
    umls: Path | None = None
    """Folder with the UMLS's own MRCONSO.RRF and MRSTY.RRF."""
    training_names: bool = True
    """Also take the entities of the training split as names; no other split is read."""
    encoder: str = SAPBERT
    """Encoder of names and phrases: hub id[@revision], folder, or demo-minilm (all-MiniLM-L6-v2 from a package)."""
    pooling: Literal["auto", "cls", "mean"] = "auto"
    """A text's vector: its first token's state (cls) or the mean. auto: mean for demo-minilm, else cls, as SapBERT."""
    nearest: int = 10
    """Names to find for each phrase."""
    longest_phrase: int = 5
    """Maximum words of a phrase."""
    device: Device = "auto"
    """Device; auto: the GPU if there is one."""
    precision: Precision = "auto"
    """Precision of the encoder; auto: bf16 if the GPU has it or, on a CPU, if a short probe finds it faster."""
    progress: bool = True
    """Show progress bars in a terminal or a notebook."""

    def __post_init__(self) -> None:
        require(self.nearest >= 1, f"nearest must be at least 1, got {self.nearest}")
        require(self.longest_phrase >= 1, f"longest_phrase must be at least 1, got {self.longest_phrase}")
        require(
            bool(self.names) or self.umls is not None or self.training_names,
            "no names: give --names or --umls, or leave --training-names on",
        )


def main(argv: Sequence[str] | None = None) -> Path:
    """Builds the knowledge base of a data set and returns its folder."""
    config = parse(KnowledgeConfig, argv)
    existing_dataset_dir(config.dataset)

    from common.models.published import DEMO_ENCODER
    from common.names.knowledge import build_knowledge
    from common.names.reading import names_in, read_names, read_umls
    from common.names.vectors import Embedder, TextEncoder
    from vaner.names import knowledge_root

    public = [name for path in config.names for name in read_names(path)]
    if config.umls is not None:
        public += read_umls(config.umls)
    data = load_dataset(config.dataset)
    own = names_in(data.train) if config.training_names else []
    require(bool(public or own), f"{data.name}: its training split has no entity; give --names or --umls")
    pooling = config.pooling
    if pooling == "auto":
        pooling = "mean" if config.encoder == DEMO_ENCODER else "cls"
    encoder = TextEncoder.load(config.encoder, pooling, config.device, config.precision)
    folder = knowledge_root() / data.name
    made = build_knowledge(
        folder,
        data.train,
        public,
        own,
        Embedder(encoder, knowledge_root() / "vectors", config.progress and on_screen()),
        nearest=config.nearest,
        longest_phrase=config.longest_phrase,
        facts={
            "dataset": data.name,
            "dataset_sha256": data.sha256,
            "encoder": Path(config.encoder).name if Path(config.encoder).is_dir() else config.encoder,
            "sources": [path.name for path in config.names] + ["UMLS"] * (config.umls is not None),
        },
    )
    logger.info(
        "%s: %s public names and %s of the training split, %s phrases of %s sentences",
        folder, f"{made['public']:,}", f"{made['training']:,}", f"{made['phrases']:,}", f"{made['sentences']:,}",
    )  # fmt: skip
    return folder


if __name__ == "__main__":
    run_script(main)
