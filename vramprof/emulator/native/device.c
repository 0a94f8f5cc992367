/* The cards: their description from the environment, the current device and last error of each thread. */
#include "device.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct card the_card;
static pthread_once_t read_once = PTHREAD_ONCE_INIT;
static _Atomic bool contexts[MAX_DEVICES];
static _Thread_local int thread_device;
static _Thread_local int thread_error;

static void read_number(const char *key, const char *value)
{
    const struct {
        const char *key;
        int *place;
    } fields[] = {
        {"count", &the_card.count},
        {"multiprocessors", &the_card.multiprocessors},
        {"shared_per_block", &the_card.shared_per_block},
        {"shared_per_block_optin", &the_card.shared_per_block_optin},
        {"shared_per_multiprocessor", &the_card.shared_per_multiprocessor},
        {"registers_per_multiprocessor", &the_card.registers_per_multiprocessor},
        {"threads_per_multiprocessor", &the_card.threads_per_multiprocessor},
        {"l2_bytes", &the_card.l2_bytes},
        {"clock_khz", &the_card.clock_khz},
        {"memory_clock_khz", &the_card.memory_clock_khz},
        {"memory_bus_bits", &the_card.memory_bus_bits},
        {"cuda_version", &the_card.cuda_version},
        {"major", &the_card.major},
        {"minor", &the_card.minor},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!strcmp(key, fields[i].key))
            *fields[i].place = atoi(value);
    if (!strcmp(key, "total_bytes"))
        the_card.total_bytes = strtoull(value, NULL, 10);
    if (!strcmp(key, "context_bytes"))
        the_card.context_bytes = strtoull(value, NULL, 10);
    if (!strcmp(key, "lag"))
        the_card.lag = strtoull(value, NULL, 10);
    if (!strcmp(key, "name"))
        strncpy(the_card.name, value, sizeof the_card.name - 1);
}

/* "key=value;key=value"; unknown keys are for others. Without the variable there is no device. */
static void read_card(void)
{
    const char *text = getenv("VRAMPROF_EMULATED_DEVICE");
    char *copy = text ? strdup(text) : NULL;
    char *rest = NULL;
    for (char *field = copy ? strtok_r(copy, ";", &rest) : NULL; field; field = strtok_r(NULL, ";", &rest)) {
        char *equals = strchr(field, '=');
        if (!equals)
            continue;
        *equals = 0;
        read_number(field, equals + 1);
    }
    free(copy);
    if (the_card.count > MAX_DEVICES)
        the_card.count = MAX_DEVICES;
}

void card_uuid(int physical, unsigned char uuid[16])
{
    memcpy(uuid, "vramprof-emulat", 15);
    uuid[15] = (unsigned char)physical;
}

void uuid_text(int physical, char text[64])
{
    unsigned char u[16];
    card_uuid(physical, u);
    snprintf(text, 64, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2],
             u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

const struct card *card(void)
{
    pthread_once(&read_once, read_card);
    return &the_card;
}

/* CUDA_VISIBLE_DEVICES: numbers or beginnings of UUIDs, in the order in which CUDA shall count them; the first that
 * names no card ends the list, and one named twice leaves none. NVML sees every card all the same. */
static int visible[MAX_DEVICES], visible_count;
static pthread_once_t visible_once = PTHREAD_ONCE_INIT;

static int named_card(const char *name)
{
    char *end;
    long number = strtol(name, &end, 10);
    if (end != name && !*end)
        return number >= 0 && number < card()->count ? (int)number : -1;
    for (int i = 0; i < card()->count && !strncmp(name, "GPU-", 4) && name[4]; i++) {
        char text[64];
        uuid_text(i, text);
        if (!strncmp(name, text, strlen(name)))
            return i;
    }
    return -1;
}

static bool is_visible(int physical)
{
    for (int i = 0; i < visible_count; i++)
        if (visible[i] == physical)
            return true;
    return false;
}

static void read_visible(void)
{
    const char *text = getenv("CUDA_VISIBLE_DEVICES");
    char *copy = text ? strdup(text) : NULL;
    char *rest = NULL;
    for (int i = 0; i < card()->count && !copy; i++)
        visible[visible_count++] = i;
    for (char *name = copy ? strtok_r(copy, ", ", &rest) : NULL; name; name = strtok_r(NULL, ", ", &rest)) {
        int physical = named_card(name);
        bool again = is_visible(physical);
        if (again)
            visible_count = 0;
        if (again || physical < 0)
            break;
        visible[visible_count++] = physical;
    }
    free(copy);
}

int device_count(void)
{
    pthread_once(&visible_once, read_visible);
    return visible_count;
}

int physical_device(int device)
{
    return device >= 0 && device < device_count() ? visible[device] : -1;
}

int current_device(void)
{
    return thread_device;
}

int select_device(int device)
{
    if (device < 0 || device >= device_count())
        return fail(ERROR_INVALID_DEVICE);
    thread_device = device;
    return OK;
}

bool context_is_open(int device)
{
    return contexts[device];
}

void open_context(int device)
{
    if (!contexts[device] && !atomic_exchange(&contexts[device], true))
        charge(device, card()->context_bytes);
}

int fail(int error)
{
    thread_error = error;
    return error;
}

int last_error(bool clear)
{
    int error = thread_error;
    if (clear)
        thread_error = OK;
    return error;
}

/* Attribute numbers are the same in the driver and in the runtime. What is not named here is absent: 0. */
int device_attribute(int attribute, int device)
{
    const struct card *c = card();
    switch (attribute) {
    case 1: case 2: case 3: return 1024; /* threads per block, block x, y */
    case 4: return 64;                   /* block z */
    case 5: return 2147483647;           /* grid x */
    case 6: case 7: return 65535;        /* grid y, z */
    case 8: return c->shared_per_block;
    case 9: return 65536; /* constant memory */
    case 10: return 32;   /* warp */
    case 11: return 2147483647;
    case 12: return 65536; /* registers per block */
    case 13: return c->clock_khz;
    case 14: case 30: return 512; /* texture, surface alignment */
    case 15: case 19: case 31: return 1; /* overlap, map host memory, concurrent kernels */
    case 16: return c->multiprocessors;
    case 33: return physical_device(device) + 1; /* PCI bus */
    case 36: return c->memory_clock_khz;
    case 37: return c->memory_bus_bits;
    case 38: return c->l2_bytes;
    case 39: return c->threads_per_multiprocessor;
    case 40: return 2; /* copy engines */
    case 41: return 1; /* unified addressing */
    case 51: return 32; /* texture pitch alignment */
    case 75: return c->major;
    case 76: return c->minor;
    case 78: case 79: case 80: return 1; /* stream priorities, L1 for globals and locals */
    case 81: return c->shared_per_multiprocessor;
    case 82: return c->registers_per_multiprocessor;
    case 83: case 89: case 90: case 91: case 92: case 93: case 94: case 95: case 96: return 1;
    case 97: return c->shared_per_block_optin;
    case 99: case 102: case 103: return 1; /* host registration, virtual memory, handles as file descriptors */
    case 106: return c->major >= 8 && !(c->major == 8 && c->minor > 0) ? 32 : 16; /* blocks per multiprocessor */
    case 108: case 109: return c->l2_bytes / 4 * 3; /* persisting L2 */
    case 111: return c->major >= 8 ? 1024 : 0;      /* shared memory that the driver keeps of each block */
    case 115: return 1;                             /* memory pools */
    case 120: return c->major >= 9;                 /* clusters */
    default: return 0;
    }
}
