"""Everything we ask DingTalk for: tokens, the registered callback, approval instances, missed events."""
