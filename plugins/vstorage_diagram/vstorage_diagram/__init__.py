"""A diagram of the schema, drawn without any system package."""
