"""Text in, entities out: documents read, tagged in windows, and written; :class:`Tagger` is the way in from Python."""

from common.inference.documents import Document
from common.inference.tagger import Entity, Tagged, Tagger

__all__ = ["Document", "Entity", "Tagged", "Tagger"]
