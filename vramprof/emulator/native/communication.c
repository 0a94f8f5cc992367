/* NCCL, NVRTC, CUPTI and cuFile: what torch reads back from them. Collectives move nothing. */
#include "device.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

struct communicator {
    int size, rank, device;
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
    **communicator = (struct communicator){size, rank, current_device()};
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
        *communicators[i] = (struct communicator){count, i, devices ? devices[i] : i};
    }
    return OK;
}

/* The groups of a split are not known without the other ranks: the new communicator is of the old one's size. */
int ncclCommSplit(struct communicator *old, int color, int key, struct communicator **split)
{
    (void)color, (void)key;
    *split = new_handle(sizeof **split);
    **split = *old;
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

/* Alone in its communicator a rank gets what it sent, so these are copies then, and small ones are carried out: DDP
 * compares the shapes of parameters that it gathers. With more ranks there is nobody to hear from. */
static size_t element_bytes(int type)
{
    static const unsigned char bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return type >= 0 && (size_t)type < sizeof bytes ? bytes[type] : 1;
}

static int keep_own(const void *from, void *to, size_t count, int type, const struct communicator *communicator)
{
    if (communicator->size == 1 && from != to)
        pass_on_bytes(to, from, count * element_bytes(type));
    submit_work();
    return OK;
}

int ncclAllReduce(const void *from, void *to, size_t count, int type, int operation, void *communicator)
{
    (void)operation;
    return keep_own(from, to, count, type, communicator);
}

int ncclReduceScatter(const void *from, void *to, size_t count, int type, int operation, void *communicator)
{
    (void)operation;
    return keep_own(from, to, count, type, communicator);
}

int ncclReduce(const void *from, void *to, size_t count, int type, int operation, int root, void *communicator)
{
    (void)operation, (void)root;
    return keep_own(from, to, count, type, communicator);
}

int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, void *communicator)
{
    (void)root;
    return keep_own(from, to, count, type, communicator);
}

int ncclAllGather(const void *from, void *to, size_t count, int type, void *communicator)
{
    return keep_own(from, to, count, type, communicator);
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
