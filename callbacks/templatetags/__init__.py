"""The app's template libraries."""
