/* cuDNN's execution plans that need not be built.
 *
 * Building one may compile kernels, for a third of a second each, and fused attention wants one for every length of its
 * sequences. Nobody runs these kernels, and the engine's configuration knows the workspace already: where an engine that
 * compiles has been built once, its next plans are taken at their configuration's word until somebody asks for more. */
#include "device.h"
#include "dnn.h"

#include <pthread.h>

enum {
    DESCRIPTOR_ENGINE = 2,
    ATTRIBUTE_CONFIGURATION_ENGINE = 300,
    ATTRIBUTE_CONFIGURATION_WORKSPACE = 303,
    ATTRIBUTE_ENGINE_INDEX = 1301,
    ATTRIBUTE_ENGINE_BEHAVIOR = 1305,
    TYPE_INT64 = 3,
    TYPE_DESCRIPTOR = 15,
    TYPE_BEHAVIOR = 19,
    COMPILES_AT_RUN_TIME = 0,
};

struct plan {
    descriptor plan;
    int64_t engine, workspace_bytes;
    bool deferred;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct plan *plans;
static size_t plan_count, plan_capacity;
static int64_t proven[256]; /* engines that compile and were built */
static size_t proven_count;

static struct plan *find(descriptor wanted)
{
    for (size_t i = plan_count; i-- > 0;)
        if (plans[i].plan == wanted)
            return &plans[i];
    return NULL;
}

static bool compiles(descriptor engine)
{
    int64_t notes[16], count = 0;
    int *note = (int *)notes;
    if (real_dnn.get(engine, ATTRIBUTE_ENGINE_BEHAVIOR, TYPE_BEHAVIOR, 16, &count, notes))
        return false;
    for (int64_t i = 0; i < count && i < 16; i++)
        if (note[i] == COMPILES_AT_RUN_TIME)
            return true;
    return false;
}

/* False where the configuration does not tell all of it, or the engine compiles nothing: such a plan is built. */
static bool read_configuration(descriptor configuration, struct plan *plan)
{
    descriptor engine = NULL;
    int64_t count = 0;
    if (real_dnn.create(DESCRIPTOR_ENGINE, &engine))
        return false;
    bool told =
        !real_dnn.get(configuration, ATTRIBUTE_CONFIGURATION_ENGINE, TYPE_DESCRIPTOR, 1, &count, &engine) &&
        !real_dnn.get(configuration, ATTRIBUTE_CONFIGURATION_WORKSPACE, TYPE_INT64, 1, &count, &plan->workspace_bytes) &&
        !real_dnn.get(engine, ATTRIBUTE_ENGINE_INDEX, TYPE_INT64, 1, &count, &plan->engine) && compiles(engine);
    real_dnn.destroy(engine);
    return told;
}

void plan_configure(descriptor plan, descriptor configuration)
{
    struct plan new = {.plan = plan};
    if (!read_configuration(configuration, &new))
        return;
    pthread_mutex_lock(&lock);
    struct plan *room = with_room(plans, plan_count, &plan_capacity, sizeof *plans);
    if (room) {
        plans = room;
        plans[plan_count++] = new;
    }
    pthread_mutex_unlock(&lock);
}

void plan_forget(descriptor plan)
{
    pthread_mutex_lock(&lock);
    struct plan *found = find(plan);
    if (found)
        *found = plans[--plan_count];
    pthread_mutex_unlock(&lock);
}

/* True where the plan may be left unbuilt. */
static bool defer(descriptor plan)
{
    pthread_mutex_lock(&lock);
    struct plan *found = find(plan);
    bool known = false;
    for (size_t i = 0; found && i < proven_count; i++)
        known |= proven[i] == found->engine;
    if (known)
        found->deferred = true;
    pthread_mutex_unlock(&lock);
    return known;
}

static void remember_proof(descriptor plan)
{
    pthread_mutex_lock(&lock);
    struct plan *found = find(plan);
    if (found && proven_count < sizeof proven / sizeof *proven)
        proven[proven_count++] = found->engine;
    pthread_mutex_unlock(&lock);
}

int plan_finalize(descriptor plan)
{
    if (defer(plan))
        return 0;
    int status = real_dnn.finalize(plan);
    if (!status)
        remember_proof(plan);
    return status;
}

bool plan_workspace(descriptor plan, int64_t *bytes)
{
    pthread_mutex_lock(&lock);
    struct plan *found = find(plan);
    bool deferred = found && found->deferred;
    if (deferred)
        *bytes = found->workspace_bytes;
    pthread_mutex_unlock(&lock);
    return deferred;
}

int plan_build(descriptor plan)
{
    pthread_mutex_lock(&lock);
    struct plan *found = find(plan);
    bool deferred = found && found->deferred;
    if (deferred)
        found->deferred = false;
    pthread_mutex_unlock(&lock);
    return deferred ? real_dnn.finalize(plan) : 0;
}
