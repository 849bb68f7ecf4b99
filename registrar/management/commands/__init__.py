"""What `manage.py` can do for this app."""
