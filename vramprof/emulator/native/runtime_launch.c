/* CUDA runtime: kernels are found, measured and launched, and never run. */
#include "device.h"
#include "kernels.h"

#include <stdlib.h>
#include <string.h>

static char symbol_storage[1 << 16]; /* what every __device__ variable's address points at */

/* Not zero: the compiler's launch stub then skips the launch altogether. */
unsigned __cudaPushCallConfiguration(void)
{
    submit_work();
    return 1;
}

int __cudaGetKernel(const void **kernel, const void *function)
{
    *kernel = function;
    return OK;
}

/* The layout that CUDA 12 and 13 share. */
struct function_attributes {
    size_t shared_bytes, constant_bytes, local_bytes;
    int threads_per_block, registers, ptx_version, binary_version, cache_mode, dynamic_shared_bytes, carveout;
    int cluster_and_reserved[22];
};
_Static_assert(sizeof(struct function_attributes) == 144, "the ABI of CUDA 12 and 13");

int cudaFuncGetAttributes(struct function_attributes *attributes, const void *function)
{
    memset(attributes, 0, sizeof *attributes);
    attributes->threads_per_block = 1024;
    attributes->registers = 32;
    attributes->ptx_version = attributes->binary_version = architecture_of(function);
    attributes->dynamic_shared_bytes = card()->shared_per_block_optin;
    return OK;
}

/* Bounded by threads, block slots and shared memory; registers are unknown. */
static int blocks_that_fit(int threads, size_t shared_bytes)
{
    int blocks = device_attribute(106, current_device());
    int by_threads = threads > 0 ? card()->threads_per_multiprocessor / threads : blocks;
    size_t shared = shared_bytes + (size_t)device_attribute(111, current_device());
    int by_shared = shared_bytes ? (int)((size_t)card()->shared_per_multiprocessor / shared) : blocks;
    blocks = by_threads < blocks ? by_threads : blocks;
    blocks = by_shared < blocks ? by_shared : blocks;
    return blocks > 0 ? blocks : 1;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int threads, size_t shared_bytes)
{
    (void)function;
    *blocks = blocks_that_fit(threads, shared_bytes);
    return OK;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int threads,
                                                           size_t shared_bytes, unsigned flags)
{
    (void)flags;
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared_bytes);
}

int cudaOccupancyMaxActiveClusters(int *clusters)
{
    *clusters = card()->multiprocessors;
    return OK;
}

int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int threads, size_t shared_bytes)
{
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared_bytes);
}

int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int threads,
                                                         size_t shared_bytes, unsigned flags)
{
    (void)flags;
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared_bytes);
}

int cuOccupancyMaxPotentialClusterSize(int *size)
{
    *size = 8;
    return OK;
}

int cuOccupancyMaxActiveClusters(int *clusters)
{
    return cudaOccupancyMaxActiveClusters(clusters);
}

int cudaGetSymbolAddress(void **address, const void *symbol)
{
    (void)symbol;
    *address = symbol_storage;
    return OK;
}

CREATES(cudaLibraryLoadData)
CREATES(cudaLibraryLoadFromFile)
CREATES(cudaLibraryGetKernel)
DESTROYS(cudaLibraryUnload)

int cudaLibraryGetKernelCount(unsigned *count)
{
    *count = 1;
    return OK;
}

int cudaLibraryGetGlobal(void **address, size_t *bytes)
{
    *address = symbol_storage;
    if (bytes)
        *bytes = sizeof symbol_storage;
    return OK;
}

CREATES(cuModuleLoad)
CREATES(cuModuleLoadData)
CREATES(cuModuleLoadDataEx)
CREATES(cuModuleLoadFatBinary)
CREATES(cuModuleGetFunction)
CREATES(cuLibraryLoadData)
CREATES(cuLibraryLoadFromFile)
CREATES(cuLibraryGetKernel)
CREATES(cuLibraryGetModule)
CREATES(cuKernelGetFunction)
DESTROYS(cuModuleUnload)
DESTROYS(cuLibraryUnload)

int cuModuleGetGlobal_v2(void **address, size_t *bytes)
{
    return cudaLibraryGetGlobal(address, bytes);
}

int cuModuleGetGlobal(void **address, size_t *bytes)
{
    return cudaLibraryGetGlobal(address, bytes);
}

int cuLibraryGetGlobal(void **address, size_t *bytes)
{
    return cudaLibraryGetGlobal(address, bytes);
}

int cuLinkCreate_v2(unsigned options, void *names, void *values, void **state)
{
    (void)options, (void)names, (void)values;
    *state = new_handle(0);
    return OK;
}

int cuLinkCreate(unsigned options, void *names, void *values, void **state)
{
    return cuLinkCreate_v2(options, names, values, state);
}

int cuLinkComplete(void *state, const void **image, size_t *bytes)
{
    (void)state;
    *image = symbol_storage;
    *bytes = 1;
    return OK;
}

int cuFuncGetAttribute(int *value, int attribute, void *function)
{
    (void)function;
    const int architecture = card()->major * 10 + card()->minor;
    const int values[] = {1024, 0, 0, 0, 32, architecture, architecture, 0, card()->shared_per_block_optin};
    *value = attribute >= 0 && attribute < 9 ? values[attribute] : 0;
    return OK;
}

int cuKernelGetAttribute(int *value, int attribute, void *kernel)
{
    return cuFuncGetAttribute(value, attribute, kernel);
}
