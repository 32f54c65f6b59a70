"""What the backbone is used for, one package for each task."""
