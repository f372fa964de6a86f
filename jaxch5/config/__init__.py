"""Settings, the rules between them, TOML, the command line, and the data that settings describe."""
