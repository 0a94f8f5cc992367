/* The counters of the emulated devices, for libnvidia-ml.so.1. */
#include "nvml_state.h"

#include "device.h"

int vramprof_device_count(void)
{
    return card()->count;
}

int vramprof_cuda_version(void)
{
    return card()->cuda_version;
}

const char *vramprof_device_name(void)
{
    return card()->name;
}

void vramprof_device_uuid(int device, char text[64])
{
    uuid_text(device, text);
}

void vramprof_compute_capability(int *major, int *minor)
{
    *major = card()->major;
    *minor = card()->minor;
}

uint64_t vramprof_total_bytes(void)
{
    return card()->total_bytes;
}

uint64_t vramprof_used_bytes(int device)
{
    for (int ordinal = 0; ordinal < device_count(); ordinal++)
        if (physical_device(ordinal) == device)
            return device_used_bytes(ordinal);
    return 0;
}
