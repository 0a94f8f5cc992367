"""Turns the figures of an out-of-memory error, from a recording or a text, into its causes, the likeliest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from vramprof.sources.oom_text import SLACK_BYTES, OomText
from vramprof.units import GIB, MIB, format_bytes


class CauseKind(Enum):
    """Why a request failed; the value is what a JSON report says."""

    ABSURD_REQUEST = "absurd request"
    LIMIT = "memory limit"
    REFUSED = "refused with memory free"
    FRAGMENTATION = "fragmentation"
    PRIVATE_POOLS = "private pools"
    OTHER_PROCESSES = "another process"
    OUTSIDE_TORCH = "memory outside torch"
    CAPACITY = "capacity"
    HOST_MEMORY = "host memory"
    OUTSIDE_ALLOCATOR = "outside torch's allocator"


@dataclass(frozen=True)
class OomFigures:
    """What is known of an error, in bytes; None where the source does not tell.

    `tried_bytes` is the segment that the driver was asked for and `requested_bytes` the block, where known;
    `held_bytes` what tensors held, `idle_bytes` what torch had and could not use, free blocks of private pools
    (`private_bytes`) left out. `others_bytes` are other processes', `outside_bytes` this process's beyond torch.
    """

    tried_bytes: int
    requested_bytes: int | None = None
    capacity_bytes: int | None = None
    free_bytes: int | None = None
    allowed_bytes: int | None = None
    reserved_bytes: int | None = None
    held_bytes: int | None = None
    idle_bytes: int | None = None
    private_bytes: int = 0
    others_bytes: int | None = None
    outside_bytes: int | None = None
    slack_bytes: int = 0
    """How far sums may be off, because a text prints figures with two decimals."""

    @property
    def needed_bytes(self) -> int:
        """The least that had to be found."""
        return self.tried_bytes if self.requested_bytes is None else self.requested_bytes

    @property
    def short_bytes(self) -> int | None:
        """How much more memory it would have taken, had nothing lain idle; negative where idle bytes were enough."""
        if self.held_bytes is None or self.free_bytes is None or self.reserved_bytes is None:
            return None
        room = self.reserved_bytes + self.free_bytes
        if self.allowed_bytes is not None:
            room = min(room, self.allowed_bytes)
        return self.held_bytes + self.private_bytes + self.needed_bytes - room


@dataclass(frozen=True)
class Cause:
    """One reason with the bytes that it is about; `certain` is False where it was inferred."""

    kind: CauseKind
    bytes: int
    sentence: str
    certain: bool = True


def figures_of(oom: OomText) -> OomFigures:
    """The figures that a text tells."""
    own = oom.own_process
    used = None
    if oom.capacity_bytes is not None and oom.free_bytes is not None:
        used = oom.capacity_bytes - oom.free_bytes
    private = oom.private_pool_bytes or 0
    named = sum(size for _, size in oom.other_processes)
    return OomFigures(
        tried_bytes=oom.tried_bytes or 0,
        capacity_bytes=oom.capacity_bytes,
        free_bytes=oom.free_bytes,
        allowed_bytes=oom.allowed_bytes,
        reserved_bytes=oom.reserved_bytes,
        held_bytes=None if oom.allocated_bytes is None else oom.allocated_bytes - private,
        idle_bytes=oom.unallocated_bytes,
        private_bytes=private,
        others_bytes=max(used - own[0], named) if own and used is not None else named or None,
        slack_bytes=SLACK_BYTES,
        outside_bytes=max(own[0] - oom.reserved_bytes, 0) if own and oom.reserved_bytes is not None else None,
    )


def rank_causes(figures: OomFigures) -> tuple[Cause, ...]:
    """Every cause that the figures bear out, what explains most and is easiest to mend first; never empty."""
    return tuple(_causes(figures)) or (_capacity(figures),)


def text_causes(oom: OomText) -> tuple[Cause, ...]:
    """The same for a text of any kind."""
    if oom.kind == "host":
        size = oom.tried_bytes or 0
        return (Cause(CauseKind.HOST_MEMORY, size, f"the host, not the GPU, had no {format_bytes(size)} left"),)
    if oom.kind == "rejected":
        sentence = "torch itself turned the request down: it would have passed per_process_memory_fraction"
        return (Cause(CauseKind.LIMIT, oom.tried_bytes or 0, sentence),)
    if oom.tried_bytes is None or oom.kind == "driver":
        sentence = "the driver was out of memory for something other than a tensor: the text has no figures"
        return (Cause(CauseKind.OUTSIDE_ALLOCATOR, 0, sentence, certain=False),)
    return rank_causes(figures_of(oom))


def _causes(f: OomFigures) -> Iterator[Cause]:
    room = min((size for size in (f.capacity_bytes, f.allowed_bytes) if size is not None), default=None)
    tried = format_bytes(f.needed_bytes)
    if room is not None and f.needed_bytes > room:
        sentence = f"one request of {tried} is more than the {format_bytes(room)} that there are: no setting can help"
        yield Cause(CauseKind.ABSURD_REQUEST, f.needed_bytes, sentence)
    yield from _refusals(f)
    if f.free_bytes is None or f.free_bytes >= f.tried_bytes:
        return
    if room is not None and 2 * f.needed_bytes > room >= f.needed_bytes and _dwarfs_what_is_held(f):
        sentence = f"one request of {tried} is more than half of the device: look at its shape first"
        yield Cause(CauseKind.ABSURD_REQUEST, f.needed_bytes, sentence, certain=False)
    yield from sorted(_obstacles(f, f.tried_bytes - f.free_bytes), key=lambda cause: -cause.bytes)
    if f.short_bytes is not None and f.short_bytes > 0:
        yield _capacity(f)


def _dwarfs_what_is_held(f: OomFigures) -> bool:
    return (f.short_bytes or 0) > 0 and f.held_bytes is not None and f.needed_bytes > 2 * f.held_bytes


def _refusals(f: OomFigures) -> Iterator[Cause]:
    """The driver had enough, and still the request failed."""
    if f.free_bytes is None or f.free_bytes < f.tried_bytes:
        return
    if f.allowed_bytes is not None and _over_limit(f, f.allowed_bytes) > -f.slack_bytes:
        over = max(_over_limit(f, f.allowed_bytes), 0)
        sentence = (
            f"this process may reserve {format_bytes(f.allowed_bytes)} (per_process_memory_fraction);"
            f" the driver had {format_bytes(f.free_bytes)} free"
        )
        yield Cause(CauseKind.LIMIT, over, sentence)
        return
    sentence = (
        f"the driver had {format_bytes(f.free_bytes)} free and refused all the same: a memory fraction that older torch"
        " does not print, a limit of WSL, Windows or the container, or another process that was quicker"
    )
    yield Cause(CauseKind.REFUSED, f.tried_bytes, sentence, certain=False)


def _over_limit(f: OomFigures, allowed_bytes: int) -> int:
    return (f.reserved_bytes or 0) + f.tried_bytes - allowed_bytes


def _obstacles(f: OomFigures, missing: int) -> Iterator[Cause]:
    """Memory that something else had, each enough by itself to make room."""
    if f.idle_bytes is not None and f.idle_bytes >= missing:
        sentence = (
            f"{format_bytes(f.idle_bytes)} that torch had reserved lay idle in pieces that the request did not fit"
        )
        yield Cause(CauseKind.FRAGMENTATION, f.idle_bytes, sentence)
    if f.private_bytes >= missing:
        sentence = f"{format_bytes(f.private_bytes)} lay free in private pools (CUDA graphs), which others cannot use"
        yield Cause(CauseKind.PRIVATE_POOLS, f.private_bytes, sentence)
    if f.others_bytes is not None and f.others_bytes >= max(missing, 256 * MIB):
        sentence = f"other processes held {format_bytes(f.others_bytes)} of this GPU"
        yield Cause(CauseKind.OTHER_PROCESSES, f.others_bytes, sentence)
    if f.outside_bytes is not None and f.outside_bytes >= max(missing, GIB):
        sentence = (
            f"this process held {format_bytes(f.outside_bytes)} outside torch's allocator (context, NCCL, libraries)"
        )
        yield Cause(CauseKind.OUTSIDE_TORCH, f.outside_bytes, sentence)


def _capacity(f: OomFigures) -> Cause:
    short = f.short_bytes
    if f.held_bytes is None or short is None:
        return Cause(
            CauseKind.CAPACITY, f.tried_bytes, "the text is too short to say why: it names no figures", certain=False
        )
    sentence = f"tensors held {format_bytes(f.held_bytes)}; with {format_bytes(f.needed_bytes)} more that is"
    if f.capacity_bytes is not None and f.held_bytes > f.capacity_bytes:
        sentence += " far over the card, which was lent host memory already (Windows)"
        return Cause(CauseKind.CAPACITY, short, sentence)
    return Cause(CauseKind.CAPACITY, short, f"{sentence} {format_bytes(max(short, 0))} more than there was")
