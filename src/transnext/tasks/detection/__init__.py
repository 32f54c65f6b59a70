"""Finding objects: boxes and, where they are annotated, outlines."""
