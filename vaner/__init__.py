"""VANER: a language model read in both directions tags the words of the one entity type named in its instruction."""
