/* Device memory and events of one process, opened by another.
 *
 * The importer gets addresses of the same size. It is charged nothing, as the memory is the exporter's; and no values pass:
 * what the exporter put there reads as zeros. */
#include "device.h"

#include <string.h>
#include <unistd.h>

struct shared {
    char mark[16];
    int process, device;
    uint64_t address, bytes;
    char reserved[24];
};
_Static_assert(sizeof(struct shared) == 64, "CUDA_IPC_HANDLE_SIZE");

static const char mark[16] = "vramprof memory";

int cudaIpcGetMemHandle(struct shared *handle, const void *pointer)
{
    struct range range;
    if (!find_range(pointer, &range) || range.kind != MEMORY_DEVICE)
        return fail(ERROR_INVALID_VALUE); /* as for memory of pools and of the virtual memory calls on a card */
    *handle = (struct shared){
        .process = getpid(), .device = range.device, .address = range.begin, .bytes = range.bytes};
    memcpy(handle->mark, mark, sizeof mark);
    return OK;
}

int cudaIpcOpenMemHandle(void **pointer, struct shared handle, unsigned flags)
{
    (void)flags;
    if (memcmp(handle.mark, mark, sizeof mark) || handle.process == getpid())
        return fail(ERROR_INVALID_VALUE);
    open_context(current_device());
    struct range range = {.bytes = handle.bytes, .kind = MEMORY_IMPORTED, .device = current_device()};
    int error = place_memory(pointer, range);
    return error ? fail(error) : OK;
}

int cudaIpcCloseMemHandle(void *pointer)
{
    struct range range;
    if (!find_range(pointer, &range) || range.kind != MEMORY_IMPORTED)
        return fail(ERROR_INVALID_VALUE);
    return remove_memory(pointer, &range);
}

/* Work of another process is over, as far as this one can tell: its events are new ones here. */
int cudaIpcGetEventHandle(struct shared *handle, const void *event)
{
    (void)event;
    memset(handle, 0, sizeof *handle);
    return OK;
}

int cudaEventCreate(void **event);

int cudaIpcOpenEventHandle(void **event, struct shared handle)
{
    (void)handle;
    return cudaEventCreate(event);
}
