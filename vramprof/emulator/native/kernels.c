/* The kernels that libraries register, and the architectures that each was compiled for.
 *
 * A card of 8.9 runs the code for 8.6 when there is none for 8.9, and the runtime then says 86. Libraries pick their
 * launch parameters by that number and refuse one that they were not compiled for, so the card's own will not do. */
#include "kernels.h"

#include "device.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct registered {
    const void *function;
    const char *image;
};

/* What the compiler hands to __cudaRegisterFatBinary. */
struct image_wrapper {
    unsigned magic, version;
    const char *image;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct registered *kernels;
static size_t kernel_count, kernel_capacity;
static bool sorted;

void **__cudaRegisterFatBinary(const struct image_wrapper *wrapper)
{
    const char **handle = new_handle(0);
    *handle = wrapper ? wrapper->image : NULL;
    return (void **)handle;
}

/* Managed variables of a module: there is nothing to set up, and 0 would say that it has not happened yet. */
char __cudaInitModule(void)
{
    return 1;
}

void __cudaRegisterFunction(const char **handle, const void *function)
{
    pthread_mutex_lock(&lock);
    struct registered *room = with_room(kernels, kernel_count, &kernel_capacity, sizeof *kernels);
    if (room) {
        kernels = room;
        kernels[kernel_count++] = (struct registered){function, *handle};
    }
    sorted = false;
    pthread_mutex_unlock(&lock);
}

static int by_function(const void *left, const void *right)
{
    uintptr_t l = (uintptr_t)((const struct registered *)left)->function;
    uintptr_t r = (uintptr_t)((const struct registered *)right)->function;
    return (l > r) - (l < r);
}

static const char *image_of(const void *function)
{
    struct registered wanted = {function, NULL};
    pthread_mutex_lock(&lock);
    if (!sorted)
        qsort(kernels, kernel_count, sizeof *kernels, by_function);
    sorted = true;
    struct registered *found =
        kernel_count ? bsearch(&wanted, kernels, kernel_count, sizeof *kernels, by_function) : NULL;
    const char *image = found ? found->image : NULL;
    pthread_mutex_unlock(&lock);
    return image;
}

/* A fat binary: a header with its own size and that of what follows, then entries, each with the same two sizes. */
struct fat_header {
    unsigned magic;
    unsigned short version, header_bytes;
    uint64_t bytes;
};

struct fat_entry {
    unsigned short kind, version;
    unsigned header_bytes;
    uint64_t bytes;
    unsigned more[3];
    unsigned architecture;
};
_Static_assert(offsetof(struct fat_entry, architecture) == 28, "the layout of a fat binary's entry");

/* Machine code runs on its own major version, from its own minor on; PTX on anything not older. */
static int best_architecture(const char *image, int card_architecture)
{
    enum { PTX = 1, MACHINE_CODE = 2, MAGIC = (int)0xba55ed50 };
    struct fat_header header;
    struct fat_entry entry;
    int machine_code = 0, ptx = 0;
    memcpy(&header, image, sizeof header);
    if ((int)header.magic != MAGIC)
        return 0;
    const char *end = image + header.header_bytes + header.bytes;
    for (const char *at = image + header.header_bytes; at + sizeof entry <= end; at += entry.header_bytes + entry.bytes) {
        memcpy(&entry, at, sizeof entry);
        int architecture = (int)entry.architecture;
        if (!entry.header_bytes)
            break;
        if (architecture > card_architecture)
            continue;
        if (entry.kind == MACHINE_CODE && architecture / 10 == card_architecture / 10 && architecture > machine_code)
            machine_code = architecture;
        if (entry.kind == PTX && architecture > ptx)
            ptx = architecture;
    }
    return machine_code ? machine_code : ptx;
}

int architecture_of(const void *function)
{
    const int own = card()->major * 10 + card()->minor;
    const char *image = image_of(function);
    int best = image ? best_architecture(image, own) : 0;
    return best ? best : own;
}
