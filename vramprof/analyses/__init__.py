"""Facts: pure functions of Recordings. No torch, no clock, no printing."""
