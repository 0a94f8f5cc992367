/* NVML, answered from the emulated devices' own counters. What is not here is absent, as on an old driver. */
#include "nvml_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
};

/* A handle is the device's number plus one, so that none is NULL. */
typedef uintptr_t device;

static int number(device handle)
{
    return (int)handle - 1;
}

static bool is_valid(device handle)
{
    return handle > 0 && (int)handle <= vramprof_device_count();
}

int nvmlInit_v2(void)
{
    return vramprof_device_count() ? SUCCESS : DRIVER_NOT_LOADED;
}

int nvmlInit(void)
{
    return nvmlInit_v2();
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    return nvmlInit_v2();
}

int nvmlShutdown(void)
{
    return SUCCESS;
}

const char *nvmlErrorString(int status)
{
    switch (status) {
    case SUCCESS: return "Success";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    default: return "Unknown Error";
    }
}

static int write_text(char *text, unsigned length, const char *value)
{
    if (strlen(value) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(text, value);
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    return write_text(version, length, "580.00");
}

int nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
    return write_text(version, length, "13.580.00");
}

int nvmlSystemGetCudaDriverVersion(int *version)
{
    *version = vramprof_cuda_version();
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    return nvmlSystemGetCudaDriverVersion(version);
}

int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/comm", pid);
    FILE *file = fopen(path, "r");
    if (!file || !length)
        return NOT_FOUND;
    if (!fgets(name, (int)length, file))
        *name = 0;
    fclose(file);
    name[strcspn(name, "\n")] = 0;
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = (unsigned)vramprof_device_count();
    return SUCCESS;
}

int nvmlDeviceGetCount(unsigned *count)
{
    return nvmlDeviceGetCount_v2(count);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *handle)
{
    *handle = (device)index + 1;
    return is_valid(*handle) ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByIndex(unsigned index, device *handle)
{
    return nvmlDeviceGetHandleByIndex_v2(index, handle);
}

int nvmlDeviceGetUUID(device handle, char *uuid, unsigned length)
{
    char text[64];
    if (!is_valid(handle))
        return INVALID_ARGUMENT;
    vramprof_device_uuid(number(handle), text);
    return write_text(uuid, length, text);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device *handle)
{
    char text[64];
    for (int i = 0; i < vramprof_device_count(); i++) {
        vramprof_device_uuid(i, text);
        *handle = (device)i + 1;
        if (!strcmp(uuid, text))
            return SUCCESS;
    }
    return NOT_FOUND;
}

/* "DOMAIN:BUS:DEVICE.FUNCTION"; the bus is the device's number plus one. */
int nvmlDeviceGetHandleByPciBusId_v2(const char *address, device *handle)
{
    unsigned domain, bus;
    if (sscanf(address, "%x:%x:", &domain, &bus) != 2)
        return INVALID_ARGUMENT;
    *handle = bus;
    return is_valid(*handle) ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetHandleByPciBusId(const char *address, device *handle)
{
    return nvmlDeviceGetHandleByPciBusId_v2(address, handle);
}

int nvmlDeviceGetIndex(device handle, unsigned *index)
{
    *index = (unsigned)number(handle);
    return is_valid(handle) ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetMinorNumber(device handle, unsigned *index)
{
    return nvmlDeviceGetIndex(handle, index);
}

int nvmlDeviceGetName(device handle, char *name, unsigned length)
{
    return is_valid(handle) ? write_text(name, length, vramprof_device_name()) : INVALID_ARGUMENT;
}

struct pci {
    char legacy_address[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char address[32];
};

int nvmlDeviceGetPciInfo_v3(device handle, struct pci *pci)
{
    if (!is_valid(handle))
        return INVALID_ARGUMENT;
    memset(pci, 0, sizeof *pci);
    pci->bus = (unsigned)handle;
    pci->pci_device_id = 0x10de;
    snprintf(pci->legacy_address, sizeof pci->legacy_address, "0000:%02X:00.0", pci->bus & 0xff);
    snprintf(pci->address, sizeof pci->address, "00000000:%02X:00.0", pci->bus & 0xff);
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v2(device handle, struct pci *pci)
{
    return nvmlDeviceGetPciInfo_v3(handle, pci);
}

int nvmlDeviceGetPciInfo(device handle, struct pci *pci)
{
    return nvmlDeviceGetPciInfo_v3(handle, pci);
}

int nvmlDeviceGetCudaComputeCapability(device handle, int *major, int *minor)
{
    vramprof_compute_capability(major, minor);
    return is_valid(handle) ? SUCCESS : INVALID_ARGUMENT;
}

/* ---- memory ---- */

struct memory_1 {
    unsigned long long total, free, used;
};

struct memory_2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

int nvmlDeviceGetMemoryInfo(device handle, struct memory_1 *memory)
{
    if (!is_valid(handle))
        return INVALID_ARGUMENT;
    memory->total = vramprof_total_bytes();
    memory->used = vramprof_used_bytes(number(handle));
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(device handle, struct memory_2 *memory)
{
    struct memory_1 plain;
    int status = nvmlDeviceGetMemoryInfo(handle, &plain);
    if (status)
        return status;
    memory->total = plain.total;
    memory->reserved = 0;
    memory->free = plain.free;
    memory->used = plain.used;
    return SUCCESS;
}

int nvmlDeviceGetBAR1MemoryInfo(device handle, struct memory_1 *memory)
{
    *memory = (struct memory_1){256ull << 20, 255ull << 20, 1ull << 20};
    return is_valid(handle) ? SUCCESS : INVALID_ARGUMENT;
}

/* ---- processes: this one, once it has a context on the device ---- */

struct process_1 {
    unsigned pid;
    unsigned long long used;
};

struct process_2 {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
};

/* 1 when there is a process to write, 0 when there is none; *count is the caller's room and becomes the answer. */
static int processes(device handle, unsigned *count, const void *room, int *status)
{
    if (!is_valid(handle)) {
        *status = INVALID_ARGUMENT;
        return 0;
    }
    bool present = vramprof_used_bytes(number(handle)) > 0;
    bool fits = !present || (*count > 0 && room);
    *count = present;
    *status = fits ? SUCCESS : INSUFFICIENT_SIZE;
    return present && fits;
}

int nvmlDeviceGetComputeRunningProcesses(device handle, unsigned *count, struct process_1 *list)
{
    int status;
    if (processes(handle, count, list, &status))
        list[0] = (struct process_1){(unsigned)getpid(), vramprof_used_bytes(number(handle))};
    return status;
}

int nvmlDeviceGetComputeRunningProcesses_v2(device handle, unsigned *count, struct process_2 *list)
{
    int status;
    const unsigned whole_card = 0xffffffff;
    if (processes(handle, count, list, &status))
        list[0] =
            (struct process_2){(unsigned)getpid(), vramprof_used_bytes(number(handle)), whole_card, whole_card};
    return status;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device handle, unsigned *count, struct process_2 *list)
{
    return nvmlDeviceGetComputeRunningProcesses_v2(handle, count, list);
}

static int no_processes(device handle, unsigned *count)
{
    *count = 0;
    return is_valid(handle) ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetGraphicsRunningProcesses(device handle, unsigned *count)
{
    return no_processes(handle, count);
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(device handle, unsigned *count)
{
    return no_processes(handle, count);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device handle, unsigned *count)
{
    return no_processes(handle, count);
}

/* ---- an idle card's readings ---- */

int nvmlDeviceGetUtilizationRates(device handle, unsigned rates[2])
{
    rates[0] = rates[1] = 0;
    return is_valid(handle) ? SUCCESS : INVALID_ARGUMENT;
}

static int reading(device handle, unsigned *value, unsigned idle)
{
    *value = idle;
    return is_valid(handle) ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetTemperature(device handle, int sensor, unsigned *celsius)
{
    (void)sensor;
    return reading(handle, celsius, 30);
}

int nvmlDeviceGetPowerUsage(device handle, unsigned *milliwatts)
{
    return reading(handle, milliwatts, 50000);
}

int nvmlDeviceGetClockInfo(device handle, int which, unsigned *mhz)
{
    (void)which;
    return reading(handle, mhz, 1000);
}

int nvmlDeviceGetPersistenceMode(device handle, unsigned *mode)
{
    return reading(handle, mode, 1);
}

int nvmlDeviceGetComputeMode(device handle, unsigned *mode)
{
    return reading(handle, mode, 0);
}

/* ---- what an emulated card does not have: no MIG, no NVLink, no fabric ---- */

#define ABSENT(function)                                                                                               \
    int function(void)                                                                                                 \
    {                                                                                                                  \
        return NOT_SUPPORTED;                                                                                          \
    }
ABSENT(nvmlDeviceGetMigMode)
ABSENT(nvmlDeviceGetFanSpeed)
ABSENT(nvmlDeviceGetEccMode)
ABSENT(nvmlDeviceGetEnforcedPowerLimit)
ABSENT(nvmlDeviceGetPowerManagementLimit)
ABSENT(nvmlDeviceGetTotalEnergyConsumption)
ABSENT(nvmlDeviceGetMemoryBusWidth)
ABSENT(nvmlDeviceGetGpuFabricInfo)
ABSENT(nvmlDeviceGetGpuFabricInfoV)
ABSENT(nvmlDeviceGetNvLinkState)
ABSENT(nvmlDeviceGetNvLinkRemoteDeviceType)
ABSENT(nvmlDeviceGetNvLinkRemotePciInfo_v2)
ABSENT(nvmlDeviceGetP2PStatus)
ABSENT(nvmlDeviceGetProcessUtilization)
ABSENT(nvmlDeviceGetAccountingMode)
ABSENT(nvmlDeviceGetRetiredPages)
ABSENT(nvmlDeviceGetTotalEccErrors)
ABSENT(nvmlDeviceGetSupportedEventTypes)
ABSENT(nvmlDeviceGetCurrentClocksThrottleReasons)
