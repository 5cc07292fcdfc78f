"""What a person asks for: flags and TOML keys, checked."""
