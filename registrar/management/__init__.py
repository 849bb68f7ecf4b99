"""Management commands live in `commands`."""
