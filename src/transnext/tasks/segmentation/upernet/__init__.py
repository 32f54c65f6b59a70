"""UPerNet."""
