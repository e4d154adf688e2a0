"""From a corpus to the data set files that every approach reads."""
