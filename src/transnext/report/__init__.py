"""The page of a run: one self-contained HTML file. It knows no task, but what tasks make of their results."""
