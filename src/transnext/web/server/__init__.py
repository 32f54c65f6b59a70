"""The explorer as a local server: `app.py` says what it answers, `guard.py` whom."""
