"""Keeps pytest from importing `write.py`, which is not a test and needs the code of f7a6c46."""

collect_ignore = ["write.py"]
