"""The fault suite: the real service under everything that can happen to it, and what came of it, counted."""
