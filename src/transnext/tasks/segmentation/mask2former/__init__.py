"""Mask2Former: masks and their classes from queries, for pixels, objects and both."""
