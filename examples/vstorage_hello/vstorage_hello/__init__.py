"""An example plugin: a text exporter, a hook that stamps who is greeted, a router."""
