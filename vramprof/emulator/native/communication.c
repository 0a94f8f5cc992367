/* NCCL, NVRTC, CUPTI and cuFile: what torch reads back from them. Collectives move nothing. */
#include "device.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

struct communicator {
    int size, rank, device;
    bool split; /* then size and rank are those of what was split */
};

struct unique_id {
    char bytes[128];
};

/* torch compares the version with the one it was built for, so the real library answers. */
int ncclGetVersion(int *version)
{
    void *library = dlopen("libnccl.so.2", RTLD_LAZY | RTLD_NOLOAD);
    int (*real)(int *) = library ? (int (*)(int *))dlsym(library, "ncclGetVersion") : NULL;
    *version = 22700;
    return real ? real(version) : OK;
}

int ncclGetUniqueId(struct unique_id *id)
{
    memset(id, 1, sizeof *id);
    return OK;
}

int ncclCommInitRank(struct communicator **communicator, int size, struct unique_id id, int rank)
{
    (void)id;
    *communicator = new_handle(sizeof **communicator);
    **communicator = (struct communicator){size, rank, current_device(), false};
    return OK;
}

int ncclCommInitRankConfig(struct communicator **communicator, int size, struct unique_id id, int rank)
{
    return ncclCommInitRank(communicator, size, id, rank);
}

int ncclCommInitRankScalable(struct communicator **communicator, int size, int rank)
{
    return ncclCommInitRank(communicator, size, (struct unique_id){{0}}, rank);
}

int ncclCommInitAll(struct communicator **communicators, int count, const int *devices)
{
    for (int i = 0; i < count; i++) {
        communicators[i] = new_handle(sizeof **communicators);
        *communicators[i] = (struct communicator){count, i, devices ? devices[i] : i, false};
    }
    return OK;
}

/* How many ranks chose a color is not known without them. The new communicator says the size of the old one and passes
 * nothing on: it might write behind the buffers of a smaller one. */
int ncclCommSplit(struct communicator *old, int color, int key, struct communicator **split)
{
    (void)color, (void)key;
    *split = new_handle(sizeof **split);
    **split = *old;
    (*split)->split = true;
    return OK;
}

DESTROYS(ncclCommDestroy)
DESTROYS(ncclCommAbort)

int ncclCommCount(struct communicator *communicator, int *size)
{
    *size = communicator->size;
    return OK;
}

int ncclCommUserRank(struct communicator *communicator, int *rank)
{
    *rank = communicator->rank;
    return OK;
}

int ncclCommCuDevice(struct communicator *communicator, int *device)
{
    *device = communicator->device;
    return OK;
}

int ncclCommGetAsyncError(struct communicator *communicator, int *status)
{
    (void)communicator;
    *status = OK;
    return OK;
}

int ncclCommRegister(void *communicator, void *buffer, size_t bytes, void **handle)
{
    (void)communicator, (void)buffer, (void)bytes;
    *handle = new_handle(0);
    return OK;
}

int ncclRedOpCreatePreMulSum(int *operation)
{
    *operation = 5;
    return OK;
}

int ncclMemAlloc(void **pointer, size_t bytes)
{
    int error = device_allocate(pointer, bytes, current_device(), MEMORY_DEVICE);
    return error ? 1 : OK; /* ncclUnhandledCudaError */
}

int ncclMemFree(void *pointer)
{
    return device_free(pointer) ? 1 : OK;
}

const char *ncclGetErrorString(int status)
{
    return status ? "unhandled cuda error" : "no error";
}

const char *ncclGetLastError(void *communicator)
{
    (void)communicator;
    return "";
}

/* Nothing travels between ranks. Each takes the others to have sent what it sent itself, as ranks of one program
 * mostly do: so shapes that DDP compares agree, and an object gathered from all comes back, once for each. Only small
 * values that the host put on the device are known and passed on. What a rank hears from one other reads as zeros. */
static size_t element_bytes(int type)
{
    static const unsigned char bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return type >= 0 && (size_t)type < sizeof bytes ? bytes[type] : 1;
}

/* Bytes of one piece; 0, of which nothing is passed on, when it is not known how many pieces there are. */
static size_t piece_bytes(size_t count, int type, const struct communicator *among)
{
    return among->split ? 0 : count * element_bytes(type);
}

/* The sum over ranks that all have the same. Types that no host counts with are left as they are. */
static void multiply(void *values, size_t count, int type, int ranks)
{
    enum { INT32 = 2, INT64 = 4, FLOAT32 = 7, FLOAT64 = 8 };
    for (size_t i = 0; i < count; i++)
        switch (type) {
        case INT32: ((int32_t *)values)[i] *= ranks; break;
        case INT64: ((int64_t *)values)[i] *= ranks; break;
        case FLOAT32: ((float *)values)[i] *= (float)ranks; break;
        case FLOAT64: ((double *)values)[i] *= ranks; break;
        }
}

static void reduce(const void *from, void *to, size_t count, int type, int operation, const struct communicator *among)
{
    const int sum = 0;
    bool known = pass_on_bytes(to, from, piece_bytes(count, type, among), 1);
    if (known && operation == sum && among->size > 1)
        multiply(to, count, type, among->size);
}

int ncclAllReduce(const void *from, void *to, size_t count, int type, int operation, struct communicator *among)
{
    reduce(from, to, count, type, operation, among);
    return OK;
}

int ncclReduceScatter(const char *from, void *to, size_t count, int type, int operation, struct communicator *among)
{
    reduce(from + (size_t)among->rank * count * element_bytes(type), to, count, type, operation, among);
    return OK;
}

int ncclReduce(const void *from, void *to, size_t count, int type, int operation, int root, struct communicator *among)
{
    if (among->rank == root)
        reduce(from, to, count, type, operation, among);
    return OK;
}

/* Alone, a broadcast brings what this rank has already. In a group, where gathering from all may be written as a
 * broadcast from each, it brings what this rank broadcasts in that group. */
static _Thread_local struct {
    int depth;
    const void *sent;
    size_t sent_bytes;
    struct awaited {
        void *to;
        size_t bytes;
    } *awaited;
    size_t count, capacity;
} group;

static void await_group_end(void *to, size_t bytes)
{
    struct awaited *room = with_room(group.awaited, group.count, &group.capacity, sizeof *room);
    if (!room)
        return;
    group.awaited = room;
    group.awaited[group.count++] = (struct awaited){to, bytes};
}

int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, struct communicator *among)
{
    const size_t bytes = piece_bytes(count, type, among);
    if (group.depth && root == among->rank) {
        group.sent = from;
        group.sent_bytes = bytes;
    } else if (group.depth) {
        await_group_end(to, bytes);
        return OK;
    }
    pass_on_bytes(to, from, bytes, 1);
    return OK;
}

int ncclGroupStart(void)
{
    group.depth++;
    return OK;
}

int ncclGroupEnd(void)
{
    if (--group.depth)
        return OK;
    for (size_t i = 0; i < group.count; i++)
        if (group.sent && group.awaited[i].bytes == group.sent_bytes)
            pass_on_bytes(group.awaited[i].to, group.sent, group.sent_bytes, 1);
    group.count = 0;
    group.sent = NULL;
    return OK;
}

int ncclAllGather(const char *from, char *to, size_t count, int type, struct communicator *among)
{
    pass_on_bytes(to, from, piece_bytes(count, type, among), among->size);
    return OK;
}

int ncclGather(const char *from, char *to, size_t count, int type, int root, struct communicator *among)
{
    if (among->rank == root)
        pass_on_bytes(to, from, piece_bytes(count, type, among), among->size);
    return OK;
}

int ncclAlltoAll(const char *from, char *to, size_t count, int type, struct communicator *among)
{
    const size_t bytes = piece_bytes(count, type, among);
    pass_on_bytes(to, from + (size_t)among->rank * bytes, bytes, among->size);
    return OK;
}

int ncclScatter(const char *from, void *to, size_t count, int type, int root, struct communicator *among)
{
    const size_t bytes = piece_bytes(count, type, among);
    if (among->rank == root)
        pass_on_bytes(to, from + (size_t)root * bytes, bytes, 1);
    return OK;
}

int ncclRecv(void *to, size_t count, int type)
{
    submit_work();
    forget_bytes(to, count * element_bytes(type));
    return OK;
}

/* ---- NVRTC: a program compiles to nothing ---- */

CREATES(nvrtcCreateProgram)

int nvrtcDestroyProgram(void **program)
{
    free(*program);
    *program = NULL;
    return OK;
}

int nvrtcVersion(int *major, int *minor)
{
    *major = card()->cuda_version / 1000;
    *minor = card()->cuda_version % 1000 / 10;
    return OK;
}

static int one_byte(void *program, size_t *bytes)
{
    (void)program;
    *bytes = 1;
    return OK;
}

int nvrtcGetPTXSize(void *program, size_t *bytes)
{
    return one_byte(program, bytes);
}

int nvrtcGetCUBINSize(void *program, size_t *bytes)
{
    return one_byte(program, bytes);
}

int nvrtcGetProgramLogSize(void *program, size_t *bytes)
{
    return one_byte(program, bytes);
}

static int empty_text(void *program, char *text)
{
    (void)program;
    *text = 0;
    return OK;
}

int nvrtcGetPTX(void *program, char *text)
{
    return empty_text(program, text);
}

int nvrtcGetCUBIN(void *program, char *text)
{
    return empty_text(program, text);
}

int nvrtcGetProgramLog(void *program, char *text)
{
    return empty_text(program, text);
}

int nvrtcGetLoweredName(void *program, const char *name, const char **lowered)
{
    (void)program;
    *lowered = name;
    return OK;
}

const char *nvrtcGetErrorString(int status)
{
    return status ? "NVRTC_ERROR" : "NVRTC_SUCCESS";
}

/* ---- CUPTI: there is no device activity to report ---- */

int cuptiGetVersion(unsigned *version)
{
    *version = (unsigned)card()->cuda_version;
    return OK;
}

int cuptiGetResultString(int result, const char **text)
{
    *text = result ? "CUPTI_ERROR" : "CUPTI_SUCCESS";
    return OK;
}

int cuptiGetCallbackName(int domain, unsigned id, const char **name)
{
    (void)domain, (void)id;
    *name = "unknown";
    return OK;
}

CREATES(cuptiSubscribe)

int cuptiActivityGetNextRecord(void *buffer, size_t bytes, void **record)
{
    (void)buffer, (void)bytes;
    *record = NULL;
    return 12; /* the end of the records */
}

int cuptiActivityPopExternalCorrelationId(int kind, uint64_t *id)
{
    (void)kind;
    if (id)
        *id = 0;
    return OK;
}

int cuptiActivityGetNumDroppedRecords(void *context, unsigned stream, size_t *dropped)
{
    (void)context, (void)stream;
    *dropped = 0;
    return OK;
}

/* ---- cuFile: 5001 says that its driver is not initialised, and torch raises ---- */

#define NO_FILE_DRIVER(function)                                                                                       \
    int64_t function(void)                                                                                             \
    {                                                                                                                  \
        return 5001;                                                                                                   \
    }
NO_FILE_DRIVER(cuFileBufRegister)
NO_FILE_DRIVER(cuFileHandleRegister)
