/* CUDA runtime: streams, events, capture and graphs. How far work has come is in work.c. */
#include "device.h"

#include <stdatomic.h>
#include <stdlib.h>

#define LAUNCH_MILLISECONDS 0.1F

struct graph {
    int node; /* its address serves as the graph's one node */
};

/* A capture outlives its streams and events, which go on pointing at it: it is small and never freed. */
struct capture {
    uint64_t id;
    _Atomic bool active;
    struct graph *graph;
};

struct stream {
    int device, priority;
    unsigned flags;
    struct capture *capture;
};

struct event {
    uint64_t sequence; /* of the work before it */
    struct capture *capture;
};

/* NULL, 1 (legacy) and 2 (per thread) are streams without an object. */
static struct stream *real_stream(struct stream *stream)
{
    return (uintptr_t)stream > 2 ? stream : NULL;
}

static struct capture *capture_of(struct stream *stream)
{
    stream = real_stream(stream);
    return stream && stream->capture && stream->capture->active ? stream->capture : NULL;
}

int cudaStreamCreateWithPriority(struct stream **stream, unsigned flags, int priority)
{
    *stream = new_handle(sizeof **stream);
    **stream = (struct stream){.device = current_device(), .priority = priority, .flags = flags};
    open_context(current_device());
    return OK;
}

int cudaStreamCreateWithFlags(struct stream **stream, unsigned flags)
{
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

int cudaStreamCreate(struct stream **stream)
{
    return cudaStreamCreateWithPriority(stream, 0, 0);
}

int cudaStreamDestroy(struct stream *stream)
{
    free(real_stream(stream));
    return OK;
}

int cudaStreamGetPriority(struct stream *stream, int *priority)
{
    *priority = real_stream(stream) ? stream->priority : 0;
    return OK;
}

int cudaStreamGetFlags(struct stream *stream, unsigned *flags)
{
    *flags = real_stream(stream) ? stream->flags : 0;
    return OK;
}

int cudaStreamGetDevice(struct stream *stream, int *device)
{
    *device = real_stream(stream) ? stream->device : current_device();
    return OK;
}

int cudaStreamAddCallback(void *stream, void (*callback)(void *, int, void *), void *data, unsigned flags)
{
    (void)flags;
    callback(stream, OK, data);
    return OK;
}

int cudaLaunchHostFunc(struct stream *stream, void (*function)(void *), void *data)
{
    if (!capture_of(stream))
        function(data);
    return OK;
}

int cudaEventCreateWithFlags(struct event **event, unsigned flags)
{
    (void)flags;
    *event = new_handle(sizeof **event);
    open_context(current_device());
    return OK;
}

int cudaEventCreate(struct event **event)
{
    return cudaEventCreateWithFlags(event, 0);
}

DESTROYS(cudaEventDestroy)

int cudaEventRecord(struct event *event, struct stream *stream)
{
    event->sequence = work_so_far();
    event->capture = capture_of(stream);
    return OK;
}

int cudaEventRecordWithFlags(struct event *event, struct stream *stream, unsigned flags)
{
    (void)flags;
    return cudaEventRecord(event, stream);
}

int cudaEventQuery(struct event *event)
{
    return work_is_done(event->sequence) ? OK : fail(ERROR_NOT_READY);
}

int cudaEventSynchronize(struct event *event)
{
    wait_for_work(event->sequence);
    return OK;
}

int cudaStreamQuery(struct stream *stream)
{
    (void)stream;
    return work_is_done(work_so_far()) ? OK : fail(ERROR_NOT_READY);
}

int cudaStreamSynchronize(struct stream *stream)
{
    (void)stream;
    wait_for_work(work_so_far());
    return OK;
}

/* Not the host's time: what autotuners choose by it has to be the same in every run. Equal work takes equally long, so
 * that the first of several candidates, the library's own favourite, wins. */
int cudaEventElapsedTime(float *milliseconds, struct event *start, struct event *end)
{
    if (!work_is_done(end->sequence))
        return fail(ERROR_NOT_READY);
    uint64_t launches = end->sequence - start->sequence;
    *milliseconds = (launches ? (float)launches : 1) * LAUNCH_MILLISECONDS;
    return OK;
}

int cudaEventElapsedTime_v2(float *milliseconds, struct event *start, struct event *end)
{
    return cudaEventElapsedTime(milliseconds, start, end);
}

/* A stream that waits for an event of a capture joins that capture. */
int cudaStreamWaitEvent(struct stream *stream, struct event *event, unsigned flags)
{
    (void)flags;
    if (real_stream(stream) && event && event->capture && event->capture->active)
        stream->capture = event->capture;
    return OK;
}

static int begin_capture(struct stream *stream, struct graph *graph)
{
    static _Atomic uint64_t last_id;
    if (!real_stream(stream) || capture_of(stream))
        return fail(ERROR_CAPTURE_INVALID);
    struct capture *capture = new_handle(sizeof *capture);
    capture->id = ++last_id;
    capture->active = true;
    capture->graph = graph ? graph : new_handle(sizeof(struct graph));
    stream->capture = capture;
    return OK;
}

int cudaStreamBeginCapture(struct stream *stream, int mode)
{
    (void)mode;
    return begin_capture(stream, NULL);
}

int cudaStreamBeginCaptureToGraph(struct stream *stream, struct graph *graph, const void *dependencies,
                                  const void *edges, size_t count, int mode)
{
    (void)dependencies, (void)edges, (void)count, (void)mode;
    return begin_capture(stream, graph);
}

int cudaStreamEndCapture(struct stream *stream, struct graph **graph)
{
    struct capture *capture = capture_of(stream);
    if (graph)
        *graph = capture ? capture->graph : NULL;
    if (!capture)
        return fail(ERROR_CAPTURE_INVALID);
    capture->active = false;
    stream->capture = NULL;
    return OK;
}

int cudaStreamIsCapturing(struct stream *stream, int *status)
{
    *status = capture_of(stream) ? 1 : 0;
    return OK;
}

static void tell_capture(struct stream *stream, int *status, uint64_t *id, struct graph **graph)
{
    struct capture *capture = capture_of(stream);
    *status = capture ? 1 : 0;
    if (id)
        *id = capture ? capture->id : 0;
    if (graph)
        *graph = capture ? capture->graph : NULL;
}

/* The signature of CUDA 12. */
int cudaStreamGetCaptureInfo_v2(struct stream *stream, int *status, uint64_t *id, struct graph **graph,
                                const void **dependencies, size_t *count)
{
    tell_capture(stream, status, id, graph);
    if (dependencies)
        *dependencies = NULL;
    if (count)
        *count = 0;
    return OK;
}

/* The signature of CUDA 13, which 12 calls _v3. */
int cudaStreamGetCaptureInfo(struct stream *stream, int *status, uint64_t *id, struct graph **graph,
                             const void **dependencies, const void **edges, size_t *count)
{
    if (edges)
        *edges = NULL;
    return cudaStreamGetCaptureInfo_v2(stream, status, id, graph, dependencies, count);
}

int cudaStreamGetCaptureInfo_v3(struct stream *stream, int *status, uint64_t *id, struct graph **graph,
                                const void **dependencies, const void **edges, size_t *count)
{
    return cudaStreamGetCaptureInfo(stream, status, id, graph, dependencies, edges, count);
}

int cudaThreadExchangeStreamCaptureMode(int *mode)
{
    static _Thread_local int thread_mode;
    int previous = thread_mode;
    thread_mode = *mode;
    *mode = previous;
    return OK;
}

int cudaGraphCreate(struct graph **graph, unsigned flags)
{
    (void)flags;
    *graph = new_handle(sizeof **graph);
    return OK;
}

int cudaGraphInstantiate(void **executable, struct graph *graph, uint64_t flags)
{
    (void)graph, (void)flags;
    *executable = new_handle(0);
    return OK;
}

int cudaGraphInstantiateWithFlags(void **executable, struct graph *graph, uint64_t flags)
{
    return cudaGraphInstantiate(executable, graph, flags);
}

DESTROYS(cudaGraphDestroy)
DESTROYS(cudaGraphExecDestroy)

/* One node, so that torch does not warn of an empty graph. */
int cudaGraphGetNodes(struct graph *graph, void **nodes, size_t *count)
{
    if (nodes && *count)
        nodes[0] = &graph->node;
    *count = 1;
    return OK;
}

int cudaGraphNodeGetDependencies(void *node, void **nodes, void *edges, size_t *count)
{
    (void)node, (void)nodes, (void)edges;
    *count = 0;
    return OK;
}

int cudaGraphAddNode(void **node, struct graph *graph)
{
    *node = &graph->node;
    return OK;
}

/* The driver's names for what callers of the driver API alone (Triton, cuDNN) use. */
int cuStreamCreate(struct stream **stream, unsigned flags)
{
    return cudaStreamCreateWithFlags(stream, flags);
}

int cuStreamDestroy_v2(struct stream *stream)
{
    return cudaStreamDestroy(stream);
}

int cuStreamIsCapturing(struct stream *stream, int *status)
{
    return cudaStreamIsCapturing(stream, status);
}

int cuStreamQuery(struct stream *stream)
{
    return cudaStreamQuery(stream);
}

int cuStreamSynchronize(struct stream *stream)
{
    return cudaStreamSynchronize(stream);
}

int cuEventCreate(struct event **event, unsigned flags)
{
    return cudaEventCreateWithFlags(event, flags);
}

int cuEventDestroy_v2(struct event *event)
{
    return cudaEventDestroy(event);
}

int cuEventRecord(struct event *event, struct stream *stream)
{
    return cudaEventRecord(event, stream);
}

int cuEventQuery(struct event *event)
{
    return cudaEventQuery(event);
}

int cuEventSynchronize(struct event *event)
{
    return cudaEventSynchronize(event);
}

CREATES(cudaUserObjectCreate)
CREATES(cudaGraphConditionalHandleCreate)
