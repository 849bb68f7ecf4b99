"""An app whose handlers leave a row for each thing they do, so that what took effect can be counted."""
