"""The columns of every table, in torch's own words; ids are ints, bytes are ints, times are Unix nanoseconds."""

from __future__ import annotations

from enum import IntEnum

import pyarrow as pa

SCHEMA_VERSION = 1


class Action(IntEnum):
    """``TraceEntry.action`` of torch's allocator history."""

    ALLOC = 0
    FREE_REQUESTED = 1
    FREE_COMPLETED = 2
    SEGMENT_ALLOC = 3
    SEGMENT_FREE = 4
    SEGMENT_MAP = 5
    SEGMENT_UNMAP = 6
    SNAPSHOT = 7
    OOM = 8
    ANNOTATE = 9
    OTHER = 10


ACTIONS = {action.name.lower(): action for action in Action}

NO_STACK = -1
"""Stack id of a row that came without frames."""

CONTEXT_PREFIX = "vp"
"""What our memory metadata begin with; the number of a span or a moment follows."""

EMULATED_MARK = "vramprof"
"""Among the allocator settings of a snapshot that we write of an emulated run; its value says so in words."""

NO_CONTEXT = -1
"""Of an event: no span is known by torch's own means. Of a span: it has no parent. Of a name: it has a time alone."""


def _table(*columns: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, dtype) for name, dtype in columns])


_device = ("device", pa.int32())
_stack = ("stack", pa.int32())

TABLES: dict[str, pa.Schema] = {
    # What the allocator did, oldest first. `size_bytes` is the requested size of blocks and the full size of segments.
    # `context` is the id of the span that the thread was in; of an `annotate` event, the moment that it marks.
    "events": _table(
        _device, ("action", pa.int8()), ("address", pa.uint64()), ("size_bytes", pa.int64()),
        ("stream", pa.uint64()), ("time_ns", pa.int64()), _stack, ("context", pa.int32()),
    ),
    # The allocator's state when it was dumped; a segment is repeated on each of its blocks.
    "blocks": _table(
        _device, ("segment_address", pa.uint64()), ("segment_size_bytes", pa.int64()), ("segment_type", pa.string()),
        ("pool_id", pa.string()), ("is_expandable", pa.bool_()), ("stream", pa.uint64()), ("address", pa.uint64()),
        ("size_bytes", pa.int64()), ("requested_bytes", pa.int64()), ("state", pa.string()), _stack,
    ),
    # Counters read while the program ran; -1 where a counter was not read.
    "samples": _table(
        ("time_ns", pa.int64()), _device, ("source", pa.string()), ("allocated_bytes", pa.int64()),
        ("active_bytes", pa.int64()), ("requested_bytes", pa.int64()), ("reserved_bytes", pa.int64()),
        ("device_used_bytes", pa.int64()), ("process_bytes", pa.int64()),
    ),
    # Who was at work: kind is step, forward, recompute, backward, optimizer, module, module_backward (the gradients of
    # that module's output arrived) or annotation. The parent is the module or phase that called it.
    "spans": _table(
        ("kind", pa.string()), ("name", pa.string()), ("begin_ns", pa.int64()), ("end_ns", pa.int64()),
        ("thread", pa.int64()), ("step", pa.int32()), ("id", pa.int32()), ("parent", pa.int32()),
    ),
    # Storages seen under a name at a moment; the address may lie inside the storage's block. The name of an activation
    # is the kinds of autograd nodes that saved it and the type of its elements: "AddmmBackward0 bfloat16".
    "tensors": _table(
        ("time_ns", pa.int64()), _device, ("address", pa.uint64()), ("size_bytes", pa.int64()),
        ("category", pa.string()), ("name", pa.string()), ("moment", pa.int32()),
    ),
    "devices": _table(
        _device, ("name", pa.string()), ("total_bytes", pa.int64()), ("compute_capability", pa.string()),
        ("begin_allocated_bytes", pa.int64()), ("end_allocated_bytes", pa.int64()),
        ("peak_allocated_bytes", pa.int64()), ("peak_reserved_bytes", pa.int64()),
    ),
    # Small reads of an emulated device's memory that gave what no kernel had computed, by line.
    "guessed_reads": _table(_device, ("size_bytes", pa.int64()), ("count", pa.int64()), _stack),
    # Who held a storage that leaked and was still alive: the path of references, and where the program keeps it.
    # `bound` is the most items that the holder takes, -1 where there is no limit.
    "holders": _table(
        _device, ("address", pa.uint64()), ("kind", pa.string()), ("path", pa.string()), ("filename", pa.string()),
        ("line", pa.int32()), ("code", pa.string()), ("bound", pa.int64()),
    ),
    # Lines of code that torch.compile generated, and the module whose work they do, relative to the compiled one.
    "compiled": _table(("filename", pa.string()), ("line", pa.int32()), ("module", pa.string())),
    "gaps": _table(
        ("source", pa.string()), ("begin_ns", pa.int64()), ("end_ns", pa.int64()), ("lost_count", pa.int64()),
        ("reason", pa.string()),
    ),
    "frames": _table(("filename", pa.string()), ("line", pa.int32()), ("name", pa.string())),
    "stacks": _table(("frames", pa.list_(pa.int32()))),
}  # fmt: skip

OPTIONAL = {"events": ("context",), "spans": ("id", "parent"), "tensors": ("moment",)}
"""Last columns that a source may leave out: NO_CONTEXT, then."""

ORIGINS = ("live", "oom", "snapshot", "predicted")
