/* What the cuDNN files share. */
#ifndef VRAMPROF_DNN_H
#define VRAMPROF_DNN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

size_t cudnnGetVersion(void);

#pragma GCC visibility push(hidden)

void *real_cudnn(const char *function); /* of the library that torch brought along; NULL without it */

typedef struct descriptor *descriptor;

/* dnn_graph.c: the real library's graph interface */
extern struct dnn_graph {
    int (*create)(int type, descriptor *made);
    int (*destroy)(descriptor);
    int (*finalize)(descriptor);
    int (*set)(descriptor, int attribute, int type, int64_t count, const void *values);
    int (*get)(descriptor, int attribute, int type, int64_t wanted, int64_t *count, void *values);
    descriptor device; /* NULL: it can't be asked, we answer ourselves */
} real_dnn;

/* dnn_plans.c */
void plan_configure(descriptor plan, descriptor configuration);
int plan_finalize(descriptor plan);                        /* of any descriptor that is a plan */
bool plan_workspace(descriptor plan, int64_t *bytes);      /* false where the plan was built and knows itself */
int plan_build(descriptor plan);                           /* now, if it was left unbuilt */
void plan_forget(descriptor plan);

#pragma GCC visibility pop

#endif
