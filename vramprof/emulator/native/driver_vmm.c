/* CUDA driver API: virtual memory management, which torch's expandable segments are made of.
 *
 * Physical memory is a number of bytes counted against a card until it is released and mapped nowhere. */
#include "device.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct physical {
    int device;
    size_t bytes;
    _Atomic int holders; /* the handle, and each mapping */
    char properties[32]; /* as given to cuMemCreate */
};

static void let_go(struct physical *physical)
{
    if (atomic_fetch_sub(&physical->holders, 1) != 1)
        return;
    refund(physical->device, physical->bytes);
    free(physical);
}

int cuMemGetAllocationGranularity(size_t *bytes, const void *properties, int option)
{
    (void)properties, (void)option;
    *bytes = PAGE_BYTES;
    return OK;
}

int cuMemAddressReserve(void **pointer, size_t bytes, size_t alignment, void *wanted, uint64_t flags)
{
    (void)alignment, (void)wanted, (void)flags;
    *pointer = reserve_addresses(bytes);
    return *pointer ? OK : ERROR_OUT_OF_MEMORY;
}

int cuMemAddressFree(void *pointer, size_t bytes)
{
    munmap(pointer, bytes);
    return OK;
}

/* properties: int kind, int handle types, int location kind, int device, ... */
int cuMemCreate(struct physical **handle, size_t bytes, const char *properties, uint64_t flags)
{
    (void)flags;
    int device;
    memcpy(&device, properties + 12, sizeof device);
    if (device < 0 || device >= device_count())
        return ERROR_INVALID_DEVICE;
    open_context(device);
    if (!charge(device, bytes))
        return ERROR_OUT_OF_MEMORY;
    *handle = new_handle(sizeof **handle);
    (*handle)->device = device;
    (*handle)->bytes = bytes;
    (*handle)->holders = 1;
    memcpy((*handle)->properties, properties, sizeof(*handle)->properties);
    return OK;
}

int cuMemRelease(struct physical *handle)
{
    let_go(handle);
    return OK;
}

int cuMemRetainAllocationHandle(struct physical **handle, void *pointer)
{
    struct range range;
    if (!find_range(pointer, &range) || range.kind != MEMORY_MAPPED)
        return ERROR_INVALID_VALUE;
    *handle = range.owner;
    (*handle)->holders++;
    return OK;
}

int cuMemGetAllocationPropertiesFromHandle(char *properties, struct physical *handle)
{
    memcpy(properties, handle->properties, sizeof handle->properties);
    return OK;
}

int cuMemMap(char *pointer, size_t bytes, size_t offset, struct physical *handle, uint64_t flags)
{
    (void)offset, (void)flags;
    handle->holders++;
    remember_range((struct range){(uintptr_t)pointer, bytes, MEMORY_MAPPED, handle->device, handle});
    return OK;
}

int cuMemUnmap(char *pointer, size_t bytes)
{
    struct range range;
    for (size_t done = 0; done < bytes; done += range.bytes) {
        if (!forget_range(pointer + done, &range))
            return ERROR_INVALID_VALUE;
        let_go(range.owner);
    }
    forget_bytes(pointer, bytes);
    madvise(pointer, bytes, MADV_DONTNEED);
    return OK;
}

/* Memory cannot be shared between the emulated devices of two processes, and there is no multicast. */
int cuMemExportToShareableHandle(void)
{
    return ERROR_NOT_SUPPORTED;
}

int cuMemImportFromShareableHandle(void)
{
    return ERROR_NOT_SUPPORTED;
}

int cuMulticastCreate(void)
{
    return ERROR_NOT_SUPPORTED;
}
