/* What the two cuDNN files share. */
#ifndef VRAMPROF_DNN_H
#define VRAMPROF_DNN_H

#include <stddef.h>

size_t cudnnGetVersion(void);

#pragma GCC visibility push(hidden)

void *real_cudnn(const char *function); /* of the library that torch brought along; NULL without it */

#pragma GCC visibility pop

#endif
