/* Which architecture a kernel would run as. */
#ifndef VRAMPROF_KERNELS_H
#define VRAMPROF_KERNELS_H

#pragma GCC visibility push(hidden)

int architecture_of(const void *function); /* 86 for sm_86 */

#pragma GCC visibility pop

#endif
