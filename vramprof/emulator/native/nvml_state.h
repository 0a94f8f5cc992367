/* What libcuda.so.1 tells libnvidia-ml.so.1: the only functions of ours that are exported. */
#ifndef VRAMPROF_NVML_STATE_H
#define VRAMPROF_NVML_STATE_H

#include <stdbool.h>
#include <stdint.h>

int vramprof_device_count(void);
int vramprof_cuda_version(void);
const char *vramprof_device_name(void);
void vramprof_device_uuid(int device, char text[64]);
void vramprof_compute_capability(int *major, int *minor);
uint64_t vramprof_total_bytes(void);
uint64_t vramprof_used_bytes(int device);

#endif
