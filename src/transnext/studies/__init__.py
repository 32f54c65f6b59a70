"""Longer measurements of a trained classifier, each with its result, table, page section and picture in one file."""
