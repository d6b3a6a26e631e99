"""An example plugin: API keys with roles, kept in a file."""
