"""Everything DingTalk tells us: receive, store, and carry events to their destinations."""
