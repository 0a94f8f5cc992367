/* Copies and fills. Kernels do not run, so device memory holds a value only where a copy from the host put it.
 *
 * Such values are kept while they are small, and read back as they were. What a kernel should have written reads as
 * zeros. Which of the two a piece of memory is can't be known for certain, since a kernel's writes are not seen: a read
 * is of kept bytes when it covers all of one copy, or lies inside one and does not begin where torch's allocator would
 * begin a new block. Reads of anything else are guesses and are told, since the program may go another way than on a
 * card; so are reads of a lone number that kernels may have changed. */
#include "device.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define WRITE_LIMIT_BYTES ((size_t)1 << 20) /* tens of GiB of "device" memory must not become host memory */
#define READ_LIMIT_BYTES ((size_t)16 << 20) /* a host buffer with leftovers in it can crash a program */
#define STEERING_LIMIT_BYTES ((size_t)4096) /* a larger read is data that leaves the device, not a decision */
#define NUMBER_BYTES ((size_t)16)           /* no more than one number */
#define BLOCK_BYTES 512                     /* every block of torch's allocator begins at a multiple of this */

struct kept {
    uintptr_t begin;
    size_t bytes;
    uint64_t work; /* how much had been submitted when it was copied */
};

LOCK_THAT_SURVIVES_FORK
static struct kept *kept; /* sorted by address, disjoint */
static size_t kept_count, kept_capacity;
static void (*_Atomic listener)(int device, uint64_t bytes, void *value);

/* The index of the first kept piece that ends after the address. */
static size_t first_ending_after(uintptr_t address)
{
    size_t low = 0, high = kept_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (kept[middle].begin + kept[middle].bytes <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static size_t drop_overlapping(uintptr_t begin, size_t bytes)
{
    size_t first = first_ending_after(begin), past = first;
    while (past < kept_count && kept[past].begin < begin + bytes)
        past++;
    memmove(kept + first, kept + past, (kept_count - past) * sizeof *kept);
    kept_count -= past - first;
    return first;
}

void forget_bytes(const void *begin, size_t bytes)
{
    take_lock();
    drop_overlapping((uintptr_t)begin, bytes);
    release_lock();
}

static void keep_bytes(const void *begin, size_t bytes)
{
    take_lock();
    size_t at = drop_overlapping((uintptr_t)begin, bytes);
    struct kept *room = with_room(kept, kept_count, &kept_capacity, sizeof *kept);
    if (room) {
        kept = room;
        memmove(kept + at + 1, kept + at, (kept_count - at) * sizeof *kept);
        kept[at] = (struct kept){(uintptr_t)begin, bytes, work_so_far()};
        kept_count++;
    }
    release_lock();
}

enum knowledge { UNKNOWN, DOUBTFUL, CERTAIN };

static enum knowledge knowledge_of(const void *begin, size_t bytes)
{
    uintptr_t address = (uintptr_t)begin;
    take_lock();
    size_t at = first_ending_after(address);
    struct kept piece = at < kept_count ? kept[at] : (struct kept){UINTPTR_MAX, 0, 0};
    release_lock();
    if (address < piece.begin || address + bytes > piece.begin + piece.bytes)
        return UNKNOWN;
    if (piece.work == work_so_far())
        return CERTAIN;
    if (piece.bytes != bytes && address % BLOCK_BYTES == 0)
        return UNKNOWN;
    return bytes > NUMBER_BYTES ? CERTAIN : DOUBTFUL;
}

/* Called, in the thread that reads, for each read that may steer the program, with what it got, which may be
 * corrected there; NULL ends that. */
void vramprof_listen_to_guesses(void (*function)(int device, uint64_t bytes, void *value))
{
    listener = function;
}

static bool is_on_device(const void *pointer)
{
    struct range range;
    return find_range(pointer, &range) && is_device_kind(range.kind);
}

static void read_device(void *to, const void *from, size_t bytes)
{
    void (*tell)(int, uint64_t, void *) = listener;
    struct range range;
    enum knowledge knowledge = knowledge_of(from, bytes);
    if (bytes > READ_LIMIT_BYTES)
        return;
    if (knowledge == UNKNOWN)
        memset(to, 0, bytes);
    else
        memmove(to, from, bytes);
    if (tell && knowledge != CERTAIN && bytes <= STEERING_LIMIT_BYTES)
        tell(find_range(from, &range) ? range.device : 0, bytes, to);
}

static void write_device(void *to, const void *from, size_t bytes)
{
    forget_bytes(to, bytes);
    if (bytes > WRITE_LIMIT_BYTES)
        return;
    memmove(to, from, bytes);
    keep_bytes(to, bytes);
}

/* What is certain to have come from the host, or from a collective just now, stays so on its way through a device. */
void copy_bytes(void *to, const void *from, size_t bytes)
{
    if (!to || !from || !bytes)
        return;
    bool from_device = is_on_device(from);
    if (is_on_device(to) && from_device && knowledge_of(from, bytes) != CERTAIN)
        forget_bytes(to, bytes);
    else if (is_on_device(to))
        write_device(to, from, bytes);
    else if (from_device)
        read_device(to, from, bytes);
    else if (bytes <= READ_LIMIT_BYTES)
        memmove(to, from, bytes);
}

/* What the host sent to one device, sent on by a collective, `times` times over. Gives whether its value is known. */
bool pass_on_bytes(char *to, const void *from, size_t bytes, int times)
{
    const size_t all = bytes * (size_t)times;
    const bool known = bytes && all <= WRITE_LIMIT_BYTES && knowledge_of(from, bytes) != UNKNOWN;
    submit_work();
    if (known) /* the last first, in case it is from where the first goes */
        for (int i = times - 1; i >= 0; i--)
            memmove(to + (size_t)i * bytes, from, bytes);
    forget_bytes(to, all);
    if (known)
        keep_bytes(to, all);
    return known;
}

/* Zeros need no writing: what is not kept reads as zeros. */
void fill_bytes(void *to, int value, size_t bytes)
{
    if (!to || !bytes)
        return;
    if (is_on_device(to))
        forget_bytes(to, bytes);
    else if (bytes <= READ_LIMIT_BYTES)
        memset(to, value, bytes);
    if (!value || bytes > WRITE_LIMIT_BYTES || !is_on_device(to))
        return;
    memset(to, value, bytes);
    keep_bytes(to, bytes);
}
