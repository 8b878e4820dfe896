/* A driver library for tests: the calls that the NVML probe makes, with values that change from call to call.
 *
 * Two GPUs. Environment variables:
 *   NVML_STUB_NO_GPU=1         nvmlDeviceGetCount says 0
 *   NVML_STUB_NO_DRIVER=1      nvmlInit says that the driver is not loaded
 *   NVML_STUB_UNSUPPORTED=a,b  power energy clock temperature throttle utilisation memory processes gpm say not supported
 *   NVML_STUB_OLD=1            calls that came with later drivers are "not found"
 *   NVML_STUB_HIDE_PIDS=1      no process is listed, as in a container
 *   NVML_STUB_NO_PROCESS_MEMORY=1  processes are listed, their memory is "not available"
 *   NVML_STUB_PIDS=12,34       the processes that are listed, with 1 GiB, 2 GiB, ...
 *   NVML_STUB_MIXED=1          the GPUs are of different kinds
 *   NVML_STUB_FLAKY=1          every second reading of power fails
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9,
       FUNCTION_NOT_FOUND = 13, UNKNOWN = 999 };

#define GIB (1024ULL * 1024 * 1024)
#define NUM_GPUS 2

typedef struct { int index; unsigned used, utilised, power, energy, clock, heat, throttle, gpm; } Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned version, sensor; int temperature; } Temperature;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned version, supported; } GpmSupport;
typedef struct { unsigned taken; } GpmSample;
typedef struct { unsigned id; int result; double value; const char *words[3]; } GpmMetric;
typedef struct { unsigned version, count; GpmSample *before, *after; GpmMetric metrics[1]; } GpmRequest;

static Device devices[NUM_GPUS] = {{.index = 0}, {.index = 1}};
static const char *uuids[NUM_GPUS] = {"GPU-aaaa1111-stub", "GPU-bbbb2222-stub"};

static int is_set(const char *name) { return getenv(name) != NULL; }

static int refused(const char *what) {
    const char *list = getenv("NVML_STUB_UNSUPPORTED");
    const char *at = list ? strstr(list, what) : NULL;
    return at && (at == list || at[-1] == ',') && strchr(",", at[strlen(what)]);
}

int nvmlInitWithFlags(unsigned flags) { return is_set("NVML_STUB_NO_DRIVER") ? DRIVER_NOT_LOADED : SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == UNKNOWN ? "Unknown Error" : "stub error"; }

int nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "999.1"); return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *count) { *count = is_set("NVML_STUB_NO_GPU") ? 0 : NUM_GPUS; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    if (index >= NUM_GPUS) return NOT_FOUND;
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    for (int k = 0; k < NUM_GPUS; k++)
        if (!strcmp(uuid, uuids[k])) { *device = &devices[k]; return SUCCESS; }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(Device *device, char *text, unsigned length) {
    snprintf(text, length, "%s", uuids[device->index]);
    return SUCCESS;
}

int nvmlDeviceGetName(Device *device, char *text, unsigned length) {
    snprintf(text, length, is_set("NVML_STUB_MIXED") && device->index ? "Stub 2000" : "Stub 1000");
    return SUCCESS;
}

/* 10, 11, 12, ... GiB in use on GPU 0, 20, 21, ... on GPU 1; version 1 counts 1 GiB of the driver's own on top. */
int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    if (refused("memory")) return NOT_SUPPORTED;
    memory->total = 80 * GIB;
    memory->used = (11 + 10 * device->index + device->used++) * GIB;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *memory) {
    if (refused("memory")) return NOT_SUPPORTED;
    if (is_set("NVML_STUB_OLD")) return FUNCTION_NOT_FOUND;
    if (memory->version != 0x02000028) return UNKNOWN;
    memory->total = 80 * GIB;
    memory->reserved = GIB;
    memory->used = (10 + 10 * device->index + device->used++) * GIB;
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device *device, Utilization *utilization) {
    if (refused("utilisation")) return NOT_SUPPORTED;
    utilization->gpu = 50 + 10 * (device->utilised++ % 5);
    utilization->memory = 25;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(Device *device, unsigned kind, unsigned *mhz) {
    if (refused("clock")) return NOT_SUPPORTED;
    if (kind != 1) return UNKNOWN;
    *mhz = 1500 + device->clock++;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    if (refused("power")) return NOT_SUPPORTED;
    unsigned call = device->power++;
    if (is_set("NVML_STUB_FLAKY") && call % 2) return UNKNOWN;
    *milliwatts = 200000 + 10000 * call;
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
    if (refused("energy")) return NOT_SUPPORTED;
    *millijoules = 5000000000ULL + 2500ULL * device->energy++; /* beyond 32 bits, 2.5 J more each time */
    return SUCCESS;
}

int nvmlDeviceGetTemperatureV(Device *device, Temperature *temperature) {
    if (refused("temperature")) return NOT_SUPPORTED;
    if (is_set("NVML_STUB_OLD")) return FUNCTION_NOT_FOUND;
    temperature->temperature = 40 + (int)device->heat++;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *celsius) {
    if (refused("temperature")) return NOT_SUPPORTED;
    *celsius = 40 + device->heat++;
    return SUCCESS;
}

/* Idle at the first call, the power cap at all others. */
static int clock_reasons(Device *device, unsigned long long *bits) {
    if (refused("throttle")) return NOT_SUPPORTED;
    *bits = device->throttle++ ? 4 : 1;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *bits) {
    return is_set("NVML_STUB_OLD") ? FUNCTION_NOT_FOUND : clock_reasons(device, bits);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *bits) {
    return clock_reasons(device, bits);
}

static int list_processes(unsigned *room, Process *processes) {
    unsigned count = 0;
    const char *at = is_set("NVML_STUB_HIDE_PIDS") ? NULL : getenv("NVML_STUB_PIDS");
    if (refused("processes")) return NOT_SUPPORTED;
    for (; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : "", count++) {
        if (count >= *room) continue;
        processes[count].pid = (unsigned)atoi(at);
        processes[count].used = is_set("NVML_STUB_NO_PROCESS_MEMORY") ? ~0ULL : (count + 1) * GIB;
    }
    int too_small = count > *room;
    *room = count;
    return too_small ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *room, Process *processes) {
    return is_set("NVML_STUB_OLD") ? FUNCTION_NOT_FOUND : list_processes(room, processes);
}

int nvmlDeviceGetComputeRunningProcesses_v2(Device *device, unsigned *room, Process *processes) {
    return list_processes(room, processes);
}

int nvmlGpmQueryDeviceSupport(Device *device, GpmSupport *support) {
    if (is_set("NVML_STUB_OLD")) return FUNCTION_NOT_FOUND;
    support->supported = !refused("gpm");
    return SUCCESS;
}

int nvmlGpmSampleAlloc(GpmSample **sample) { *sample = calloc(1, sizeof **sample); return SUCCESS; }
int nvmlGpmSampleFree(GpmSample *sample) { free(sample); return SUCCESS; }
int nvmlGpmSampleGet(Device *device, GpmSample *sample) { sample->taken = ++device->gpm; return SUCCESS; }

/* Right only if `before` is the snapshot just before `after`: 10 % of SM activity per snapshot, half of it of DRAM. */
int nvmlGpmMetricsGet(GpmRequest *request) {
    if (request->version != 1 || request->after->taken != request->before->taken + 1) return UNKNOWN;
    for (unsigned k = 0; k < request->count; k++) {
        GpmMetric *metric = &request->metrics[k];
        metric->result = metric->id == 2 || metric->id == 10 ? SUCCESS : NOT_SUPPORTED;
        metric->value = 10.0 * request->after->taken / (metric->id == 10 ? 2 : 1);
    }
    return SUCCESS;
}
