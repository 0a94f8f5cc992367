"""The emulated device held against a real one: the same programs on both, their allocator histories event by event.

`probe` asks a card what it is, `history` aligns two histories, `report` tells what differs; `scripts/gpu_check` runs
them.
"""
