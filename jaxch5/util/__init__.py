"""Shared helpers: readable text, files, addresses, other libraries."""
