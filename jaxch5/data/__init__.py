"""Data: from labelled pictures to batches."""
