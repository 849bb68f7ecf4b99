"""The verbs of `manage.py dingtalk`: each takes options and returns what to print."""
