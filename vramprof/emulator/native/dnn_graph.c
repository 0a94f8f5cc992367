/* cuDNN's graph interface, which torch's convolutions and fused attention go through.
 *
 * From 9.8 on, the real library chooses engines and workspaces for a card that is described to it instead of present:
 * every call goes through to it, with a device description where the caller puts its handle. Only the execution does
 * nothing. An older library cannot be asked; then there is one engine configuration, and it needs no workspace. */
#include "device.h"
#include "dnn.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DESCRIPTOR_ENGINE = 2,
    DESCRIPTOR_HEURISTIC = 4,
    DESCRIPTOR_DEVICE = 38,
    ATTRIBUTE_HEURISTIC_RESULTS = 202,
    ATTRIBUTE_HEURISTIC_DEVICE = 204,
    ATTRIBUTE_PLAN_HANDLE = 400,
    ATTRIBUTE_PLAN_CONFIGURATION = 401,
    ATTRIBUTE_PLAN_WORKSPACE = 402,
    ATTRIBUTE_PLAN_DEVICE = 407,
    ATTRIBUTE_GRAPH_HANDLE = 800,
    ATTRIBUTE_GRAPH_ENGINES = 802,
    ATTRIBUTE_ENGINE_DEVICE = 1307,
    ATTRIBUTE_DEVICE_JSON = 2702,
    TYPE_INT64 = 3,
    TYPE_DESCRIPTOR = 15,
    TYPE_CHAR = 24,
    OLDEST_THAT_CAN_BE_ASKED = 90800,
};

struct dnn_graph real_dnn;

static pthread_once_t once = PTHREAD_ONCE_INIT;

static int describe_card(char *json, size_t bytes)
{
    const struct card *c = card();
    return snprintf(json, bytes,
                    "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,"
                    "\"multiProcessorCount\":%d,\"smCountOrigin\":0,\"warpSize\":32,\"maxSharedMemoryPerBlock\":%d,"
                    "\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":%d,\"maxRegistersPerSM\":%d,"
                    "\"maxCtasPerSM\":%d,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":%d,\"pciDeviceId\":0,"
                    "\"isTccDriver\":0,\"supportCoopLaunch\":1,\"totalGlobalMem\":%llu,\"smClockRateKHz\":%d,"
                    "\"memClockRateKHz\":%d,\"l2CacheSize\":%d,\"cudaDeviceId\":0,\"deviceVer\":%d,\"driverVer\":%d,"
                    "\"deviceName\":\"%s\"}",
                    c->multiprocessors, c->shared_per_block, c->shared_per_block_optin, device_attribute(111, 0),
                    c->registers_per_multiprocessor, device_attribute(106, 0), c->threads_per_multiprocessor,
                    (unsigned long long)c->total_bytes, c->clock_khz, c->memory_clock_khz, c->l2_bytes,
                    c->major * 100 + c->minor * 10, c->cuda_version, c->name);
}

static void ask_real_library(void)
{
    char json[2048];
    descriptor device = NULL;
    const char *off = getenv("VRAMPROF_EMULATED_CUDNN");
    if ((off && !strcmp(off, "stub")) || cudnnGetVersion() < OLDEST_THAT_CAN_BE_ASKED)
        return;
    *(void **)&real_dnn.create = real_cudnn("cudnnBackendCreateDescriptor");
    *(void **)&real_dnn.destroy = real_cudnn("cudnnBackendDestroyDescriptor");
    *(void **)&real_dnn.finalize = real_cudnn("cudnnBackendFinalize");
    *(void **)&real_dnn.set = real_cudnn("cudnnBackendSetAttribute");
    *(void **)&real_dnn.get = real_cudnn("cudnnBackendGetAttribute");
    if (!real_dnn.create || !real_dnn.destroy || !real_dnn.finalize || !real_dnn.set || !real_dnn.get)
        return;
    int bytes = describe_card(json, sizeof json);
    if (real_dnn.create(DESCRIPTOR_DEVICE, &device) ||
        real_dnn.set(device, ATTRIBUTE_DEVICE_JSON, TYPE_CHAR, bytes + 1, json) || real_dnn.finalize(device))
        return;
    real_dnn.device = device;
}

static bool is_real(void)
{
    pthread_once(&once, ask_real_library);
    return real_dnn.device != NULL;
}

/* ---- which descriptors are engines and heuristics: those are told the device when they are finalised ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct awaited {
    descriptor descriptor;
    int attribute;
} *awaited;
static size_t awaited_count, awaited_capacity;

static void await_finalize(descriptor made, int attribute)
{
    pthread_mutex_lock(&lock);
    struct awaited *room = with_room(awaited, awaited_count, &awaited_capacity, sizeof *awaited);
    if (room) { /* else it is not told the device, and cuDNN refuses it */
        awaited = room;
        awaited[awaited_count++] = (struct awaited){made, attribute};
    }
    pthread_mutex_unlock(&lock);
}

/* The attribute that a descriptor waits for, or 0. */
static int stop_awaiting(descriptor wanted)
{
    int attribute = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = awaited_count; i-- > 0;)
        if (awaited[i].descriptor == wanted) {
            attribute = awaited[i].attribute;
            awaited[i] = awaited[--awaited_count];
            break;
        }
    pthread_mutex_unlock(&lock);
    return attribute;
}

int cudnnBackendCreateDescriptor(int type, descriptor *made)
{
    if (!is_real()) {
        *made = new_handle(0);
        return OK;
    }
    int status = real_dnn.create(type, made);
    if (!status && type == DESCRIPTOR_HEURISTIC)
        await_finalize(*made, ATTRIBUTE_HEURISTIC_DEVICE);
    if (!status && type == DESCRIPTOR_ENGINE)
        await_finalize(*made, ATTRIBUTE_ENGINE_DEVICE);
    return status;
}

int cudnnBackendDestroyDescriptor(descriptor old)
{
    if (!is_real()) {
        free(old);
        return OK;
    }
    stop_awaiting(old);
    plan_forget(old);
    return real_dnn.destroy(old);
}

int cudnnBackendFinalize(descriptor descriptor)
{
    if (!is_real())
        return OK;
    int attribute = stop_awaiting(descriptor);
    if (attribute)
        real_dnn.set(descriptor, attribute, TYPE_DESCRIPTOR, 1, &real_dnn.device);
    return plan_finalize(descriptor);
}

int cudnnBackendSetAttribute(descriptor descriptor, int attribute, int type, int64_t count, const void *values)
{
    if (!is_real() || attribute == ATTRIBUTE_GRAPH_HANDLE)
        return OK;
    if (attribute == ATTRIBUTE_PLAN_HANDLE)
        return real_dnn.set(descriptor, ATTRIBUTE_PLAN_DEVICE, TYPE_DESCRIPTOR, 1, &real_dnn.device);
    if (attribute == ATTRIBUTE_PLAN_CONFIGURATION)
        plan_configure(descriptor, *(struct descriptor *const *)values);
    return real_dnn.set(descriptor, attribute, type, count, values);
}

static int get_from_real(descriptor descriptor, int attribute, int type, int64_t wanted, int64_t *count, void *values)
{
    if (attribute == ATTRIBUTE_PLAN_WORKSPACE && wanted > 0 && plan_workspace(descriptor, values)) {
        if (count)
            *count = 1;
        return OK;
    }
    int status = plan_build(descriptor);
    return status ? status : real_dnn.get(descriptor, attribute, type, wanted, count, values);
}

int cudnnBackendGetAttribute(descriptor descriptor, int attribute, int type, int64_t wanted, int64_t *count,
                             void *values)
{
    if (is_real())
        return get_from_real(descriptor, attribute, type, wanted, count, values);
    if (attribute == ATTRIBUTE_PLAN_WORKSPACE)
        note_estimate("cudnnBackendGetAttribute");
    bool one = attribute == ATTRIBUTE_HEURISTIC_RESULTS || attribute == ATTRIBUTE_PLAN_WORKSPACE ||
               attribute == ATTRIBUTE_GRAPH_ENGINES;
    if (count)
        *count = one ? 1 : 0;
    if (values && wanted > 0 && type == TYPE_INT64)
        *(int64_t *)values = attribute == ATTRIBUTE_GRAPH_ENGINES;
    return OK;
}

int cudnnBackendExecute(void *handle, descriptor plan, descriptor pack)
{
    (void)handle, (void)plan, (void)pack;
    submit_work();
    return OK;
}
