"""What `vramprof live` shows: a full screen, or a line a second."""
