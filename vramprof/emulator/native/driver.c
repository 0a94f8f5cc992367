/* CUDA driver API: devices, contexts, memory and what a pointer is. */
#include "device.h"

#include <stdio.h>

struct context {
    int device;
};

static struct context contexts[MAX_DEVICES];

static struct context *context_of(int device)
{
    contexts[device].device = device;
    return &contexts[device];
}

int cuInit(unsigned flags)
{
    (void)flags;
    return device_count() ? OK : ERROR_NO_DEVICE;
}

int cuDriverGetVersion(int *version)
{
    *version = card()->cuda_version;
    return OK;
}

int cuDeviceGetCount(int *count)
{
    *count = device_count();
    return OK;
}

int cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    return ordinal >= 0 && ordinal < device_count() ? OK : ERROR_INVALID_DEVICE;
}

int cuDeviceGetName(char *name, int length, int device)
{
    (void)device;
    snprintf(name, (size_t)length, "%s", card()->name);
    return OK;
}

int cuDeviceGetUuid(unsigned char *uuid, int device)
{
    card_uuid(physical_device(device), uuid);
    return OK;
}

int cuDeviceGetUuid_v2(unsigned char *uuid, int device)
{
    return cuDeviceGetUuid(uuid, device);
}

int cuDeviceTotalMem_v2(size_t *bytes, int device)
{
    (void)device;
    *bytes = card()->total_bytes;
    return OK;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    *value = device_attribute(attribute, device);
    return OK;
}

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active)
{
    if (flags)
        *flags = 0;
    *active = context_is_open(device);
    return OK;
}

int cuDevicePrimaryCtxRetain(struct context **context, int device)
{
    open_context(device);
    *context = context_of(device);
    return OK;
}

int cuCtxCreate_v2(struct context **context, unsigned flags, int device)
{
    (void)flags;
    return cuDevicePrimaryCtxRetain(context, device);
}

int cuCtxGetCurrent(struct context **context)
{
    int device = current_device();
    *context = context_is_open(device) ? context_of(device) : NULL;
    return OK;
}

int cuCtxSetCurrent(struct context *context)
{
    return context ? select_device(context->device) : OK;
}

int cuCtxPushCurrent_v2(struct context *context)
{
    return cuCtxSetCurrent(context);
}

int cuCtxPopCurrent_v2(struct context **context)
{
    return context ? cuCtxGetCurrent(context) : OK;
}

int cuCtxPushCurrent(struct context *context)
{
    return cuCtxSetCurrent(context);
}

int cuCtxPopCurrent(struct context **context)
{
    return cuCtxPopCurrent_v2(context);
}

int cuCtxSynchronize(void)
{
    wait_for_work(work_so_far());
    return OK;
}

int cuCtxGetLimit(size_t *bytes, int limit)
{
    (void)limit;
    *bytes = 1024; /* of stack per thread: the one limit that is asked for */
    return OK;
}

int cuModuleGetLoadingMode(int *mode)
{
    *mode = 2; /* lazy */
    return OK;
}

/* No green contexts, so that a caller learns it rather than using a handle that nobody wrote. */
int cuGreenCtxCreate(void **context)
{
    *context = NULL;
    return ERROR_NOT_SUPPORTED;
}

int cuDeviceGetDevResource(void)
{
    return ERROR_NOT_SUPPORTED;
}

int cuCtxGetDevice(int *device)
{
    *device = current_device();
    return OK;
}

int cuStreamGetCtx(void *stream, struct context **context)
{
    (void)stream;
    return cuCtxGetCurrent(context);
}

/* An error, or the static runtimes inside NVIDIA's libraries would follow the pointers of a table that is not there. */
int cuGetExportTable(const void **table, const void *id)
{
    (void)id;
    *table = NULL;
    return ERROR_NOT_FOUND;
}

int cuGetErrorString(int error, const char **text)
{
    *text = error == ERROR_OUT_OF_MEMORY ? "out of memory" : error ? "unknown error" : "no error";
    return OK;
}

int cuGetErrorName(int error, const char **name)
{
    *name = error == ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error ? "CUDA_ERROR_UNKNOWN" : "CUDA_SUCCESS";
    return OK;
}

int cuMemAlloc_v2(void **pointer, size_t bytes)
{
    return device_allocate(pointer, bytes, current_device(), MEMORY_DEVICE);
}

int cuMemFree_v2(void *pointer)
{
    return device_free(pointer);
}

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
    *total_bytes = card()->total_bytes;
    *free_bytes = *total_bytes - device_used_bytes(current_device());
    return OK;
}

int cuMemcpyHtoD_v2(void *to, const void *from, size_t bytes)
{
    copy_bytes(to, from, bytes);
    return OK;
}

int cuMemcpyDtoH_v2(void *to, const void *from, size_t bytes)
{
    copy_bytes(to, from, bytes);
    return OK;
}

int cuMemcpyAsync(void *to, const void *from, size_t bytes)
{
    copy_bytes(to, from, bytes);
    return OK;
}

int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes)
{
    return cuMemcpyAsync(to, from, bytes);
}

int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes)
{
    return cuMemcpyAsync(to, from, bytes);
}

int cuMemsetD8Async(void *to, unsigned char value, size_t count)
{
    fill_bytes(to, value, count);
    return OK;
}

int cuMemGetAddressRange_v2(void **begin, size_t *bytes, void *pointer)
{
    struct range range;
    if (!find_range(pointer, &range))
        return ERROR_NOT_FOUND;
    if (begin)
        *begin = (void *)range.begin;
    if (bytes)
        *bytes = range.bytes;
    return OK;
}

int cuPointerGetAttribute(void *value, int attribute, void *pointer)
{
    struct range range;
    if (!find_range(pointer, &range))
        return ERROR_INVALID_VALUE;
    bool host = range.kind == MEMORY_HOST || range.kind == MEMORY_REGISTERED;
    switch (attribute) {
    case 1: *(struct context **)value = context_of(range.device); return OK;
    case 2: *(unsigned *)value = host ? 1 : 2; return OK;
    case 3: case 4: *(void **)value = pointer; return OK;
    case 7: *(uint64_t *)value = range.begin; return OK; /* an id of the allocation */
    case 8: *(int *)value = range.kind == MEMORY_MANAGED; return OK;
    case 9: *(int *)value = range.device; return OK;
    case 11: *(uintptr_t *)value = range.begin; return OK;
    case 12: *(size_t *)value = range.bytes; return OK;
    default: return ERROR_INVALID_VALUE;
    }
}
