/* CUDA runtime: devices, their properties, errors and versions. */
#include "device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* cudaDeviceProp has two layouts: 12.x has a few fields that 13.x dropped. The order below is that of the ABI. */
#define PROPERTIES(name, ONLY_12, RESERVED)                                                                            \
    struct name {                                                                                                      \
        char title[256];                                                                                               \
        unsigned char uuid[16];                                                                                        \
        char luid[8];                                                                                                  \
        unsigned luid_node_mask;                                                                                       \
        size_t total_bytes, shared_per_block;                                                                          \
        int registers_per_block, warp_size;                                                                            \
        size_t memory_pitch;                                                                                           \
        int threads_per_block, block[3], grid[3];                                                                      \
        ONLY_12(int clock_rate;)                                                                                       \
        size_t constant_bytes;                                                                                         \
        int major, minor;                                                                                              \
        size_t texture_alignment, texture_pitch_alignment;                                                             \
        ONLY_12(int device_overlap;)                                                                                   \
        int multiprocessors;                                                                                           \
        ONLY_12(int kernel_timeout;)                                                                                   \
        int integrated, can_map_host_memory;                                                                           \
        ONLY_12(int compute_mode;)                                                                                     \
        int texture_1d, texture_1d_mipmap;                                                                             \
        ONLY_12(int texture_1d_linear;)                                                                                \
        int textures_and_surfaces[37];                                                                                 \
        size_t surface_alignment;                                                                                      \
        int concurrent_kernels, ecc, pci_bus, pci_device, pci_domain, tcc, copy_engines, unified_addressing;           \
        ONLY_12(int memory_clock_rate;)                                                                                \
        int memory_bus_bits, l2_bytes, persisting_l2_bytes, threads_per_multiprocessor, stream_priorities;             \
        int global_l1, local_l1;                                                                                       \
        size_t shared_per_multiprocessor;                                                                              \
        int registers_per_multiprocessor, managed_memory, multi_gpu_board, multi_gpu_board_group;                      \
        int host_native_atomics;                                                                                       \
        ONLY_12(int single_to_double_ratio;)                                                                           \
        int pageable_access, concurrent_managed_access, compute_preemption, registered_host_pointers;                  \
        int cooperative_launch;                                                                                        \
        ONLY_12(int cooperative_multi_device_launch;)                                                                  \
        size_t shared_per_block_optin;                                                                                 \
        int host_page_tables, direct_managed_access, blocks_per_multiprocessor, access_window_bytes;                   \
        size_t reserved_shared_per_block;                                                                              \
        int host_register, sparse_arrays, host_register_read_only, timeline_semaphores, memory_pools;                  \
        int direct_rdma;                                                                                               \
        unsigned direct_rdma_flush;                                                                                    \
        int direct_rdma_order;                                                                                         \
        unsigned pool_handle_types;                                                                                    \
        int deferred_mapping, ipc_events, cluster_launch, unified_function_pointers;                                   \
        int reserved[RESERVED];                                                                                        \
    };

#define KEEP(field) field
#define DROP(field)
PROPERTIES(properties_12, KEEP, 63)
PROPERTIES(properties_13, DROP, 63)
_Static_assert(sizeof(struct properties_12) == 1032, "the ABI of CUDA 12");
_Static_assert(sizeof(struct properties_13) == 1008, "the ABI of CUDA 13");
_Static_assert(offsetof(struct properties_13, surface_alignment) == 552, "the ABI of CUDA 13");
_Static_assert(offsetof(struct properties_13, multiprocessors) == 384, "the ABI of CUDA 13");
_Static_assert(offsetof(struct properties_13, shared_per_block_optin) == 672, "the ABI of CUDA 13");
_Static_assert(offsetof(struct properties_13, unified_function_pointers) == 752, "the ABI of CUDA 13");

/* Fields that both layouts have. */
#define FILL_PROPERTIES(p, device)                                                                                     \
    do {                                                                                                               \
        const struct card *c = card();                                                                                 \
        memset(p, 0, sizeof *(p));                                                                                     \
        snprintf((p)->title, sizeof(p)->title, "%s", c->name);                                                         \
        card_uuid(physical_device(device), (p)->uuid);                                                                  \
        (p)->total_bytes = c->total_bytes;                                                                             \
        (p)->shared_per_block = (size_t)c->shared_per_block;                                                           \
        (p)->registers_per_block = device_attribute(12, device);                                                       \
        (p)->warp_size = 32;                                                                                           \
        (p)->memory_pitch = 2147483647;                                                                                \
        (p)->threads_per_block = 1024;                                                                                 \
        for (int axis = 0; axis < 3; axis++) {                                                                         \
            (p)->block[axis] = device_attribute(2 + axis, device);                                                     \
            (p)->grid[axis] = device_attribute(5 + axis, device);                                                      \
        }                                                                                                              \
        (p)->constant_bytes = 65536;                                                                                   \
        (p)->major = c->major;                                                                                         \
        (p)->minor = c->minor;                                                                                         \
        (p)->texture_alignment = 512;                                                                                  \
        (p)->texture_pitch_alignment = 32;                                                                             \
        (p)->multiprocessors = c->multiprocessors;                                                                     \
        (p)->can_map_host_memory = 1;                                                                                  \
        (p)->texture_1d = (p)->texture_1d_mipmap = 131072;                                                             \
        (p)->surface_alignment = 512;                                                                                  \
        (p)->concurrent_kernels = 1;                                                                                   \
        (p)->pci_bus = physical_device(device) + 1;                                                                    \
        (p)->copy_engines = 2;                                                                                         \
        (p)->unified_addressing = 1;                                                                                   \
        (p)->memory_bus_bits = c->memory_bus_bits;                                                                     \
        (p)->l2_bytes = c->l2_bytes;                                                                                   \
        (p)->persisting_l2_bytes = device_attribute(108, device);                                                      \
        (p)->threads_per_multiprocessor = c->threads_per_multiprocessor;                                               \
        (p)->stream_priorities = (p)->global_l1 = (p)->local_l1 = 1;                                                   \
        (p)->shared_per_multiprocessor = (size_t)c->shared_per_multiprocessor;                                         \
        (p)->registers_per_multiprocessor = c->registers_per_multiprocessor;                                           \
        (p)->managed_memory = (p)->concurrent_managed_access = (p)->compute_preemption = 1;                            \
        (p)->registered_host_pointers = (p)->cooperative_launch = 1;                                                   \
        (p)->shared_per_block_optin = (size_t)c->shared_per_block_optin;                                               \
        (p)->blocks_per_multiprocessor = device_attribute(106, device);                                                \
        (p)->access_window_bytes = device_attribute(109, device);                                                      \
        (p)->reserved_shared_per_block = (size_t)device_attribute(111, device);                                        \
        (p)->host_register = (p)->memory_pools = (p)->unified_function_pointers = 1;                                   \
        (p)->cluster_launch = device_attribute(120, device);                                                           \
    } while (0)

static bool is_device(int device)
{
    return device >= 0 && device < device_count();
}

int cudaGetDeviceProperties(struct properties_13 *properties, int device)
{
    if (!is_device(device))
        return fail(ERROR_INVALID_DEVICE);
    FILL_PROPERTIES(properties, device);
    return OK;
}

int cudaGetDeviceProperties_v2(struct properties_12 *properties, int device)
{
    if (!is_device(device))
        return fail(ERROR_INVALID_DEVICE);
    FILL_PROPERTIES(properties, device);
    properties->clock_rate = card()->clock_khz;
    properties->memory_clock_rate = card()->memory_clock_khz;
    properties->device_overlap = 1;
    return OK;
}

int cudaGetDeviceCount(int *count)
{
    *count = device_count();
    return *count ? OK : fail(ERROR_NO_DEVICE);
}

int cudaGetDevice(int *device)
{
    *device = current_device();
    return OK;
}

int cudaSetDevice(int device)
{
    int error = select_device(device);
    if (!error)
        open_context(device);
    return error;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device)
{
    if (!is_device(device))
        return fail(ERROR_INVALID_DEVICE);
    *value = device_attribute(attribute, device);
    return OK;
}

int cudaDeviceGetPCIBusId(char *text, int length, int device)
{
    if (!is_device(device))
        return fail(ERROR_INVALID_DEVICE);
    snprintf(text, (size_t)length, "0000:%02X:00.0", physical_device(device) + 1);
    return OK;
}

int cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    *can = device != peer && is_device(device) && is_device(peer);
    return OK;
}

int cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
    (void)flags;
    return is_device(peer) ? OK : fail(ERROR_INVALID_DEVICE);
}

int cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    if (least)
        *least = 0;
    if (greatest)
        *greatest = -5;
    return OK;
}

int cudaDeviceSynchronize(void)
{
    open_context(current_device());
    wait_for_work(work_so_far());
    return OK;
}

int cudaRuntimeGetVersion(int *version)
{
    *version = card()->cuda_version;
    return OK;
}

int cudaDriverGetVersion(int *version)
{
    return cudaRuntimeGetVersion(version);
}

int cudaGetLastError(void)
{
    return last_error(true);
}

int cudaPeekAtLastError(void)
{
    return last_error(false);
}

static const struct {
    int error;
    const char *name, *text;
} errors[] = {
    {0, "cudaSuccess", "no error"},
    {1, "cudaErrorInvalidValue", "invalid argument"},
    {2, "cudaErrorMemoryAllocation", "out of memory"},
    {3, "cudaErrorInitializationError", "initialization error"},
    {100, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {101, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {400, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {500, "cudaErrorSymbolNotFound", "named symbol not found"},
    {600, "cudaErrorNotReady", "device not ready"},
    {801, "cudaErrorNotSupported", "operation not supported"},
    {901, "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"},
};

const char *cudaGetErrorName(int error)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].error == error)
            return errors[i].name;
    return "cudaErrorUnknown";
}

const char *cudaGetErrorString(int error)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].error == error)
            return errors[i].text;
    return "unknown error";
}

/* The driver's names carry a version suffix that callers leave out: NAME_v2 before NAME. */
static void *driver_function(const char *name)
{
    static void *self;
    char versioned[160];
    if (!self)
        self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    void *function = self ? dlsym(self, versioned) : NULL;
    return function || !self ? function : dlsym(self, name);
}

int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, uint64_t flags, int *status)
{
    (void)version, (void)flags;
    *function = driver_function(name);
    if (status)
        *status = *function ? 0 : 1;
    return OK;
}

int cudaGetDriverEntryPoint(const char *name, void **function, uint64_t flags, int *status)
{
    return cudaGetDriverEntryPointByVersion(name, function, 0, flags, status);
}

int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags)
{
    (void)version, (void)flags;
    *function = driver_function(name);
    return *function ? OK : ERROR_NOT_FOUND;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status)
{
    int error = cuGetProcAddress(name, function, version, flags);
    if (status)
        *status = error ? 1 : 0;
    return error;
}
