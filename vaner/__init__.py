"""VANER: a language model read in both directions tags the words of one entity type, which its instruction names."""
