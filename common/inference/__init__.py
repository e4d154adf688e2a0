"""Text in, entities out: reads documents, tags them in windows, writes them. From Python, use :class:`Tagger`."""

from common.inference.documents import Document
from common.inference.tagger import Entity, Tagged, Tagger

__all__ = ["Document", "Entity", "Tagged", "Tagger"]
