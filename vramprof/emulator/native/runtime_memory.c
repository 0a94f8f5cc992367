/* CUDA runtime: allocation, copies, fills and what a pointer is. */
#include "device.h"

#include <stdlib.h>
#include <string.h>

int cudaMalloc(void **pointer, size_t bytes)
{
    int error = device_allocate(pointer, bytes, current_device(), MEMORY_DEVICE);
    return error ? fail(error) : OK;
}

int cudaMallocManaged(void **pointer, size_t bytes, unsigned flags)
{
    (void)flags;
    int error = device_allocate(pointer, bytes, current_device(), MEMORY_MANAGED);
    return error ? fail(error) : OK;
}

static int check_managed(const void *pointer)
{
    struct range range;
    return find_range(pointer, &range) && range.kind == MEMORY_MANAGED ? OK : fail(ERROR_INVALID_VALUE);
}

/* Where managed memory lies is all one here. CUDA 13 passes the place as a struct, but the pointer comes first there too. */
int cudaMemPrefetchAsync(const void *pointer, size_t bytes)
{
    (void)bytes;
    return check_managed(pointer);
}

int cudaMemAdvise(const void *pointer, size_t bytes)
{
    (void)bytes;
    return check_managed(pointer);
}

int cudaFree(void *pointer)
{
    if (!pointer)
        open_context(current_device()); /* cudaFree(0) is the customary way to open one */
    wait_for_work(work_so_far());
    int error = device_free(pointer);
    return error ? fail(error) : OK;
}

int cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    int device = current_device();
    open_context(device);
    *total_bytes = card()->total_bytes;
    *free_bytes = *total_bytes - device_used_bytes(device);
    return OK;
}

int cudaHostAlloc(void **pointer, size_t bytes, unsigned flags)
{
    (void)flags;
    int error = host_allocate(pointer, bytes);
    return error ? fail(error) : OK;
}

int cudaMallocHost(void **pointer, size_t bytes)
{
    return cudaHostAlloc(pointer, bytes, 0);
}

int cudaFreeHost(void *pointer)
{
    int error = host_free(pointer);
    return error ? fail(error) : OK;
}

int cudaHostRegister(void *pointer, size_t bytes, unsigned flags)
{
    (void)flags;
    remember_range((struct range){(uintptr_t)pointer, bytes, MEMORY_REGISTERED, current_device(), NULL});
    return OK;
}

int cudaHostUnregister(void *pointer)
{
    struct range range;
    return forget_range(pointer, &range) ? OK : fail(ERROR_INVALID_VALUE);
}

int cudaHostGetDevicePointer(void **device_pointer, void *pointer, unsigned flags)
{
    (void)flags;
    *device_pointer = pointer;
    return OK;
}

int cudaMemcpy(void *to, const void *from, size_t bytes, int direction)
{
    (void)direction;
    copy_bytes(to, from, bytes);
    wait_for_work(work_so_far());
    return OK;
}

int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int direction, void *stream)
{
    (void)direction, (void)stream;
    copy_bytes(to, from, bytes);
    return OK;
}

int cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t bytes, void *stream)
{
    (void)to_device, (void)from_device, (void)stream;
    copy_bytes(to, from, bytes);
    return OK;
}

int cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                      int direction, void *stream)
{
    (void)direction, (void)stream;
    for (size_t row = 0; row < height; row++)
        copy_bytes((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
    return OK;
}

int cudaMemset(void *to, int value, size_t bytes)
{
    fill_bytes(to, value, bytes);
    return OK;
}

int cudaMemsetAsync(void *to, int value, size_t bytes, void *stream)
{
    (void)stream;
    submit_work();
    return cudaMemset(to, value, bytes);
}

/* Only the fields that CUDA 12 and 13 share; 13 has reserved words behind them. */
struct pointer_attributes {
    int type; /* 0 unknown to CUDA, 1 host, 2 device, 3 managed */
    int device;
    const void *device_pointer, *host_pointer;
};

int cudaPointerGetAttributes(struct pointer_attributes *attributes, const void *pointer)
{
    struct range range = {.kind = MEMORY_NONE, .device = -2};
    find_range(pointer, &range);
    bool host = range.kind == MEMORY_HOST || range.kind == MEMORY_REGISTERED;
    bool device = is_device_kind(range.kind);
    bool managed = range.kind == MEMORY_MANAGED;
    attributes->type = host ? 1 : device ? 2 : managed ? 3 : 0;
    attributes->device = range.device;
    attributes->device_pointer = host || device || managed ? pointer : NULL;
    attributes->host_pointer = device ? NULL : pointer;
    return OK;
}

int cudaDeviceGetGraphMemAttribute(int device, int attribute, uint64_t *value)
{
    (void)device, (void)attribute;
    *value = 0;
    return OK;
}
