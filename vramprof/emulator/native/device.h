/* The state of the emulated devices: what every API file of this folder reads and writes. */
#ifndef VRAMPROF_DEVICE_H
#define VRAMPROF_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Results that the runtime, the driver API and NVML share or that we return from several files. */
enum {
    OK = 0,
    ERROR_INVALID_VALUE = 1,
    ERROR_OUT_OF_MEMORY = 2,
    ERROR_NO_DEVICE = 100,
    ERROR_INVALID_DEVICE = 101,
    ERROR_INVALID_HANDLE = 400,
    ERROR_NOT_FOUND = 500,
    ERROR_NOT_READY = 600,
    ERROR_CAPTURE_INVALID = 901,
    ERROR_NOT_SUPPORTED = 801,
};

#define MAX_DEVICES 64
#define PAGE_BYTES ((size_t)2 << 20) /* the driver hands out device memory in pages of 2 MiB */

/* What a card is: read once from the environment, never changed. */
struct card {
    char name[200];
    int count;
    uint64_t total_bytes;
    uint64_t context_bytes;
    int major, minor;
    int multiprocessors;
    int shared_per_block, shared_per_block_optin, shared_per_multiprocessor;
    int registers_per_multiprocessor;
    int threads_per_multiprocessor;
    int l2_bytes;
    int clock_khz, memory_clock_khz, memory_bus_bits;
    uint64_t lag;     /* launches that the device is behind */
    int cuda_version; /* of the installed torch: 13000, 12040, ... */
};

enum memory_kind {
    MEMORY_NONE,
    MEMORY_HOST,
    MEMORY_REGISTERED, /* the program's own, pinned */
    MEMORY_MANAGED,
    MEMORY_DEVICE,
    MEMORY_MAPPED,   /* by the virtual memory calls */
    MEMORY_POOLED,   /* of a stream-ordered pool, which is charged for it */
    MEMORY_IMPORTED, /* of another process, which is charged for it */
};

static inline bool is_device_kind(enum memory_kind kind)
{
    return kind >= MEMORY_DEVICE;
}

/* A range of addresses that the API handed out (or had registered). */
struct range {
    uintptr_t begin;
    size_t bytes;
    enum memory_kind kind;
    int device;
    void *owner; /* MEMORY_MAPPED: the physical memory behind the range; MEMORY_POOLED: the pool */
};

#pragma GCC visibility push(hidden)

/* device.c */
const struct card *card(void);
int device_count(void); /* those that CUDA_VISIBLE_DEVICES leaves; card()->count is all of them */
int physical_device(int device);
int current_device(void);
int select_device(int device);
void open_context(int device); /* counts the context's memory the first time */
bool context_is_open(int device);
int fail(int error); /* remembers the thread's last error and returns it */
int last_error(bool clear);
void card_uuid(int physical, unsigned char uuid[16]);
void uuid_text(int physical, char text[64]); /* "GPU-..." */

/* memory.c */
bool charge(int device, uint64_t bytes); /* false when it does not fit on the card */
void refund(int device, uint64_t bytes);
uint64_t device_used_bytes(int device);
void *reserve_addresses(size_t bytes);
bool remember_range(struct range range);
bool find_range(const void *pointer, struct range *found);
bool forget_range(const void *begin, struct range *forgotten);
int device_allocate(void **pointer, size_t bytes, int device, enum memory_kind kind);
int device_free(void *pointer);
int place_memory(void **pointer, struct range wanted); /* at an address of our choice, charging nobody */
int remove_memory(void *pointer, struct range *removed);
int host_allocate(void **pointer, size_t bytes);
int host_free(void *pointer);
void *with_room(void *array, size_t count, size_t *capacity, size_t item_bytes); /* NULL: no room for one more */
void *new_handle(size_t bytes); /* a zeroed object for an opaque handle; bytes may be 0 */
int device_attribute(int attribute, int device);

/* pools.c */
int pool_allocate(void **pointer, size_t bytes, int device);
void pool_refund(void *pool, size_t bytes);

/* copies.c */
void copy_bytes(void *to, const void *from, size_t bytes);
bool pass_on_bytes(char *to, const void *from, size_t bytes, int times);
void fill_bytes(void *to, int value, size_t bytes);
void forget_bytes(const void *begin, size_t bytes); /* their values are gone */

/* estimates.c */
void note_estimate(const char *function); /* one string constant for each */

/* work.c */
uint64_t submit_work(void); /* the sequence number of one launch */
uint64_t work_so_far(void);
bool work_is_done(uint64_t sequence);
void wait_for_work(uint64_t sequence);

#pragma GCC visibility pop

/* A file's own lock: a child that is forked while another thread holds it must not wait for that thread. */
#define LOCK_THAT_SURVIVES_FORK                                                                                        \
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;                                                           \
    static void take_lock(void)                                                                                        \
    {                                                                                                                  \
        pthread_mutex_lock(&lock);                                                                                     \
    }                                                                                                                  \
    static void release_lock(void)                                                                                     \
    {                                                                                                                  \
        pthread_mutex_unlock(&lock);                                                                                   \
    }                                                                                                                  \
    __attribute__((constructor)) static void survive_fork(void)                                                        \
    {                                                                                                                  \
        pthread_atfork(take_lock, release_lock, release_lock);                                                         \
    }

/* Where a library's handle is all that a caller wants of a function. */
#define CREATES(function)                                                                                              \
    int function(void **handle)                                                                                        \
    {                                                                                                                  \
        *handle = new_handle(0);                                                                                       \
        return OK;                                                                                                     \
    }
#define DESTROYS(function)                                                                                             \
    int function(void *handle)                                                                                         \
    {                                                                                                                  \
        free(handle);                                                                                                  \
        return OK;                                                                                                     \
    }

#endif
