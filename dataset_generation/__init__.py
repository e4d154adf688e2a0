"""Turns a corpus into the data set files that every approach reads."""
