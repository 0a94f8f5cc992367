/* Memory: what is counted against a card, and the address ranges behind it.
 *
 * Device memory is address space that nobody commits: pages come into being only where a small copy really writes.
 */
#include "device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Where drivers on Linux begin to hand out addresses. The caching allocator takes the lowest of free blocks of equal
 * size, so the order of addresses decides what it reuses: upwards, first gap that fits, as recorded from real cards. */
#define FIRST_ADDRESS ((uintptr_t)0x502000000)

LOCK_THAT_SURVIVES_FORK
static uint64_t used[MAX_DEVICES];
static struct range *ranges; /* sorted by address, disjoint */
static size_t range_count, range_capacity;

bool charge(int device, uint64_t bytes)
{
    take_lock();
    bool fits = bytes <= card()->total_bytes && used[device] <= card()->total_bytes - bytes;
    if (fits)
        used[device] += bytes;
    release_lock();
    return fits;
}

void refund(int device, uint64_t bytes)
{
    take_lock();
    used[device] -= bytes;
    release_lock();
}

uint64_t device_used_bytes(int device)
{
    take_lock();
    uint64_t bytes = used[device];
    release_lock();
    return bytes;
}

/* Address space aligned to the driver's page, with no memory behind it until it is touched. */
void *reserve_addresses(size_t bytes)
{
    size_t padded = bytes + PAGE_BYTES;
    char *raw = mmap(NULL, padded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
        return NULL;
    size_t head = (PAGE_BYTES - (uintptr_t)raw % PAGE_BYTES) % PAGE_BYTES;
    if (head)
        munmap(raw, head);
    munmap(raw + head + bytes, padded - head - bytes);
    madvise(raw + head, bytes, MADV_NOHUGEPAGE); /* a copy of 4 bytes must not commit 2 MiB */
    return raw + head;
}

/* The index of the first range that begins after the address. */
static size_t upper_bound(uintptr_t address)
{
    size_t low = 0, high = range_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (ranges[middle].begin <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static uintptr_t lowest_gap(size_t bytes)
{
    take_lock();
    uintptr_t begin = FIRST_ADDRESS;
    for (size_t i = upper_bound(begin - 1); i < range_count && ranges[i].begin < begin + bytes; i++)
        begin = (ranges[i].begin + ranges[i].bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    release_lock();
    return begin;
}

/* As reserve_addresses, at the lowest address that is free; elsewhere if something else of the process lies there. */
static void *reserve_lowest(size_t bytes)
{
    void *wanted = (void *)lowest_gap(bytes);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    void *memory = mmap(wanted, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory != wanted) {
        if (memory != MAP_FAILED)
            munmap(memory, bytes); /* a kernel before 4.17 takes the address for a hint */
        return reserve_addresses(bytes);
    }
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    return memory;
}

bool remember_range(struct range range)
{
    take_lock();
    struct range *room = with_room(ranges, range_count, &range_capacity, sizeof *ranges);
    if (!room) {
        release_lock();
        return false;
    }
    ranges = room;
    size_t at = upper_bound(range.begin);
    memmove(ranges + at + 1, ranges + at, (range_count - at) * sizeof *ranges);
    ranges[at] = range;
    range_count++;
    release_lock();
    return true;
}

bool find_range(const void *pointer, struct range *found)
{
    uintptr_t address = (uintptr_t)pointer;
    take_lock();
    size_t after = upper_bound(address);
    bool inside = after > 0 && address - ranges[after - 1].begin < ranges[after - 1].bytes;
    if (inside)
        *found = ranges[after - 1];
    release_lock();
    return inside;
}

bool forget_range(const void *begin, struct range *forgotten)
{
    take_lock();
    size_t after = upper_bound((uintptr_t)begin);
    bool exact = after > 0 && ranges[after - 1].begin == (uintptr_t)begin;
    if (exact) {
        *forgotten = ranges[after - 1];
        memmove(ranges + after - 1, ranges + after, (range_count - after) * sizeof *ranges);
        range_count--;
    }
    release_lock();
    return exact;
}

int place_memory(void **pointer, struct range wanted)
{
    void *memory = reserve_lowest(wanted.bytes);
    wanted.begin = (uintptr_t)memory;
    if (!memory)
        return ERROR_OUT_OF_MEMORY;
    if (!remember_range(wanted)) {
        munmap(memory, wanted.bytes);
        return ERROR_OUT_OF_MEMORY;
    }
    *pointer = memory;
    return OK;
}

int remove_memory(void *pointer, struct range *removed)
{
    if (!forget_range(pointer, removed))
        return ERROR_INVALID_VALUE;
    forget_bytes(pointer, removed->bytes);
    munmap(pointer, removed->bytes);
    return OK;
}

/* Managed memory takes nothing of the card: where the card is full, its pages go to the host. */
static size_t charged_bytes(struct range range)
{
    return range.kind == MEMORY_MANAGED ? 0 : range.bytes;
}

int device_allocate(void **pointer, size_t bytes, int device, enum memory_kind kind)
{
    *pointer = NULL;
    if (!bytes)
        return OK;
    if (bytes > card()->total_bytes)
        return ERROR_OUT_OF_MEMORY;
    size_t rounded = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    struct range wanted = {.bytes = rounded, .kind = kind, .device = device};
    open_context(device);
    if (!charge(device, charged_bytes(wanted)))
        return ERROR_OUT_OF_MEMORY;
    int error = place_memory(pointer, wanted);
    if (error)
        refund(device, charged_bytes(wanted));
    return error;
}

int device_free(void *pointer)
{
    struct range range;
    int error = pointer ? remove_memory(pointer, &range) : OK;
    if (!pointer || error)
        return error;
    if (range.kind == MEMORY_POOLED)
        pool_refund(range.owner, range.bytes);
    else
        refund(range.device, charged_bytes(range));
    return OK;
}

int host_allocate(void **pointer, size_t bytes)
{
    *pointer = NULL;
    if (!bytes)
        return OK;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return ERROR_OUT_OF_MEMORY;
    remember_range((struct range){(uintptr_t)memory, bytes, MEMORY_HOST, current_device(), NULL});
    *pointer = memory;
    return OK;
}

int host_free(void *pointer)
{
    struct range range;
    if (!pointer)
        return OK;
    if (!forget_range(pointer, &range))
        return ERROR_INVALID_VALUE;
    munmap(pointer, range.bytes);
    return OK;
}

/* The array, moved where it had to grow; it stays as it was where there is no memory. */
void *with_room(void *array, size_t count, size_t *capacity, size_t item_bytes)
{
    if (count < *capacity)
        return array;
    size_t more = *capacity ? *capacity * 2 : 64;
    void *grown = realloc(array, more * item_bytes);
    if (grown)
        *capacity = more;
    return grown;
}

void *new_handle(size_t bytes)
{
    return calloc(1, bytes > 64 ? bytes : 64);
}
