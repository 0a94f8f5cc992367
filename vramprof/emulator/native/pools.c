/* Stream-ordered allocation: each device has one pool, of which cudaMallocAsync takes.
 *
 * How the driver packs its pools is not published. This one grows by whole chunks when what is in use no longer fits, never
 * fragments, and keeps what is freed up to its threshold: the least that a driver's would hold. */
#include "device.h"

#define CHUNK_BYTES ((uint64_t)32 << 20) /* by which reserved memory of the default pool is seen to grow */
#define BLOCK_BYTES ((size_t)512)

struct pool {
    int device;
    uint64_t threshold; /* what it may keep when it is not in use */
    uint64_t used, used_high, reserved, reserved_high;
};

static struct pool pools[MAX_DEVICES];
LOCK_THAT_SURVIVES_FORK

static uint64_t whole_chunks(uint64_t bytes)
{
    return (bytes + CHUNK_BYTES - 1) / CHUNK_BYTES * CHUNK_BYTES;
}

static bool take_from(struct pool *pool, uint64_t bytes)
{
    uint64_t wanted = whole_chunks(pool->used + bytes);
    if (wanted > pool->reserved && !charge(pool->device, wanted - pool->reserved))
        return false;
    pool->used += bytes;
    pool->reserved = wanted > pool->reserved ? wanted : pool->reserved;
    pool->used_high = pool->used > pool->used_high ? pool->used : pool->used_high;
    pool->reserved_high = pool->reserved > pool->reserved_high ? pool->reserved : pool->reserved_high;
    return true;
}

static void trim(struct pool *pool, uint64_t kept)
{
    if (kept >= pool->reserved || pool->used >= pool->reserved)
        return;
    uint64_t floor = whole_chunks(pool->used > kept ? pool->used : kept);
    refund(pool->device, pool->reserved - floor);
    pool->reserved = floor;
}

int pool_allocate(void **pointer, size_t bytes, int device)
{
    struct pool *pool = &pools[device];
    size_t rounded = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    *pointer = NULL;
    if (!bytes)
        return OK;
    if (bytes > card()->total_bytes)
        return ERROR_OUT_OF_MEMORY;
    note_estimate("cudaMallocAsync");
    open_context(device);
    take_lock();
    pool->device = device;
    bool taken = take_from(pool, rounded);
    release_lock();
    if (!taken)
        return ERROR_OUT_OF_MEMORY;
    struct range range = {.bytes = rounded, .kind = MEMORY_POOLED, .device = device, .owner = pool};
    int error = place_memory(pointer, range);
    if (error)
        pool_refund(pool, rounded);
    return error;
}

void pool_refund(void *owner, size_t bytes)
{
    struct pool *pool = owner;
    take_lock();
    pool->used -= bytes;
    trim(pool, pool->threshold);
    release_lock();
}

int cudaMallocAsync(void **pointer, size_t bytes)
{
    int error = pool_allocate(pointer, bytes, current_device());
    return error ? fail(error) : OK;
}

int cudaMallocFromPoolAsync(void **pointer, size_t bytes, struct pool *pool)
{
    int error = pool_allocate(pointer, bytes, pool->device);
    return error ? fail(error) : OK;
}

int cudaFreeAsync(void *pointer)
{
    int error = device_free(pointer);
    return error ? fail(error) : OK;
}

int cuMemAllocAsync(void **pointer, size_t bytes)
{
    return pool_allocate(pointer, bytes, current_device());
}

int cuMemFreeAsync(void *pointer)
{
    return device_free(pointer);
}

int cudaDeviceGetDefaultMemPool(struct pool **pool, int device)
{
    if (device < 0 || device >= device_count())
        return fail(ERROR_INVALID_DEVICE);
    pools[device].device = device;
    *pool = &pools[device];
    return OK;
}

int cudaDeviceGetMemPool(struct pool **pool, int device)
{
    return cudaDeviceGetDefaultMemPool(pool, device);
}

int cudaMemPoolTrimTo(struct pool *pool, size_t kept)
{
    take_lock();
    trim(pool, kept);
    release_lock();
    return OK;
}

enum { THRESHOLD = 4, RESERVED, RESERVED_HIGH, USED, USED_HIGH };

int cudaMemPoolGetAttribute(struct pool *pool, int attribute, void *value)
{
    if (attribute < THRESHOLD) { /* the ways of reuse: all are on */
        *(int *)value = 1;
        return OK;
    }
    take_lock();
    const uint64_t values[] = {pool->threshold, pool->reserved, pool->reserved_high, pool->used, pool->used_high};
    release_lock();
    if (attribute > USED_HIGH)
        return fail(ERROR_INVALID_VALUE);
    *(uint64_t *)value = values[attribute - THRESHOLD];
    return OK;
}

/* The marks of the highest use can only be set back to now. */
int cudaMemPoolSetAttribute(struct pool *pool, int attribute, const void *value)
{
    take_lock();
    if (attribute == THRESHOLD)
        pool->threshold = *(const uint64_t *)value;
    if (attribute == RESERVED_HIGH)
        pool->reserved_high = pool->reserved;
    if (attribute == USED_HIGH)
        pool->used_high = pool->used;
    release_lock();
    return OK;
}
