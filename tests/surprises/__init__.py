"""Programs whose memory differs from what was expected, for a known reason; and programs that look so, and do not."""
