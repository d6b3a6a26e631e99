"""The `vstorage` command: exporters and importers as commands, plugin list, checks."""
