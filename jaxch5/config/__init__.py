"""Settings, what goes with what, TOML, the command line, and what they describe."""
