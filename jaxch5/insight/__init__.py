"""Insight: pictures of what goes into training and of what comes out of it."""
