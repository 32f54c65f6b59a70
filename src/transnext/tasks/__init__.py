"""Uses of the backbone, one package for each task."""
