"""What every part needs: text for people, files, addresses, other libraries."""
