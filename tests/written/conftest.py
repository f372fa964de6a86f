"""What writes the files here needs the code of its day, and is no test."""

collect_ignore = ["write.py"]
