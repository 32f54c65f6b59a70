"""Data, checks and a toy task that several test files use."""
