/* A driver library for tests: the calls that the NVML probe and `harness doctor` make, with values that change.
 *
 * Two GPUs. Environment variables:
 *   NVML_STUB_NO_GPU=1         nvmlDeviceGetCount says 0
 *   NVML_STUB_NO_DRIVER=1      nvmlInit says that the driver is not loaded
 *   NVML_STUB_UNSUPPORTED=a,b  these calls say "not supported": the words that `refused` is asked with below
 *   NVML_STUB_FORBIDDEN=a,b    these calls say "no permission"; handle1 is GPU 1 itself
 *   NVML_STUB_OLD=1            calls that came with later drivers are "not found"
 *   NVML_STUB_LOST=1:3         GPU 1 is lost from its third reading of memory on: every call to it says so
 *   NVML_STUB_HANG=1:3         likewise, but no call to it returns any more
 *   NVML_STUB_MIG=1            GPU 0 is split into two MIG instances
 *   NVML_STUB_HIDE_PIDS=1      no process is listed, as in a container
 *   NVML_STUB_NO_PROCESS_MEMORY=1  processes are listed, their memory is "not available"
 *   NVML_STUB_PIDS=12,34       the processes that are listed, with 1 GiB, 2 GiB, ...
 *   NVML_STUB_MIXED=1          the GPUs are of different kinds
 *   NVML_STUB_FLAKY=1          every second reading of power fails
 *   NVML_STUB_WORN=1           what a person would have mended: clocks, power, PCIe, NVLink, ECC, modes
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9, FUNCTION_NOT_FOUND = 13, GPU_IS_LOST = 15, UNKNOWN = 999 };

#define GIB (1024ULL * 1024 * 1024)
#define NUM_GPUS 2
#define NUM_LINKS 18

typedef struct Device {
    int index;
    struct Device *parent; /* of a MIG instance */
    unsigned used, asked, utilised, power, energy, clock, heat, throttle, gpm;
} Device;
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
static Device instances[NUM_GPUS] = {{.index = 0, .parent = devices}, {.index = 1, .parent = devices}};
static const char *uuids[NUM_GPUS] = {"GPU-aaaa1111-stub", "GPU-bbbb2222-stub"};
static const char *mig_uuids[NUM_GPUS] = {"MIG-cccc3333-stub", "MIG-dddd4444-stub"};

static int is_set(const char *name) { return getenv(name) != NULL; }
static int has_mig(Device *device) { return is_set("NVML_STUB_MIG") && device->index == 0; }

static int listed(const char *variable, const char *what) {
    const char *list = getenv(variable);
    const char *at = list ? strstr(list, what) : NULL;
    return at && (at == list || at[-1] == ',') && strchr(",", at[strlen(what)]);
}

/* Whether a variable such as 1:3 names this GPU and a reading that has come. */
static int is_due(const char *variable, Device *device) {
    int index, from;
    const char *text = getenv(variable);
    device = device->parent ? device->parent : device;
    return text && sscanf(text, "%d:%d", &index, &from) == 2 && device->index == index && device->asked >= from;
}

static int is_lost(Device *device) { return is_due("NVML_STUB_LOST", device); }

static int refused(Device *device, const char *what) {
    while (is_due("NVML_STUB_HANG", device)) sleep(1);
    if (is_lost(device)) return GPU_IS_LOST;
    if (listed("NVML_STUB_FORBIDDEN", what)) return NO_PERMISSION;
    return listed("NVML_STUB_UNSUPPORTED", what) ? NOT_SUPPORTED : SUCCESS;
}

#define ASK(device, what) do { int code = refused(device, what); if (code) return code; } while (0)
#define ASK_WHOLE(device, what) do { if (device->parent) return NOT_SUPPORTED; ASK(device, what); } while (0)
#define NEEDS_NEW_DRIVER if (is_set("NVML_STUB_OLD")) return FUNCTION_NOT_FOUND

int nvmlInitWithFlags(unsigned flags) { return is_set("NVML_STUB_NO_DRIVER") ? DRIVER_NOT_LOADED : SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == UNKNOWN ? "Unknown Error" : "stub error"; }

int nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "999.1"); return SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13010; return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *count) { *count = is_set("NVML_STUB_NO_GPU") ? 0 : NUM_GPUS; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    if (index >= NUM_GPUS) return NOT_FOUND;
    if (index == 1 && listed("NVML_STUB_FORBIDDEN", "handle1")) return NO_PERMISSION;
    if (is_lost(&devices[index])) return GPU_IS_LOST;
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    for (int k = 0; k < NUM_GPUS; k++) {
        if (!strcmp(uuid, uuids[k])) { *device = &devices[k]; return SUCCESS; }
        if (is_set("NVML_STUB_MIG") && !strcmp(uuid, mig_uuids[k])) { *device = &instances[k]; return SUCCESS; }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetIndex(Device *device, unsigned *index) { *index = device->index; return refused(device, "index"); }

int nvmlDeviceGetUUID(Device *device, char *text, unsigned length) {
    ASK(device, "uuid");
    snprintf(text, length, "%s", (device->parent ? mig_uuids : uuids)[device->index]);
    return SUCCESS;
}

int nvmlDeviceGetName(Device *device, char *text, unsigned length) {
    ASK(device, "name");
    if (device->parent) snprintf(text, length, "Stub 1000 MIG 1g.10gb");
    else snprintf(text, length, is_set("NVML_STUB_MIXED") && device->index ? "Stub 2000" : "Stub 1000");
    return SUCCESS;
}

/* MIG: GPU 0 has places for seven instances and fills the first two. */
int nvmlDeviceIsMigDeviceHandle(Device *device, unsigned *is_mig) {
    NEEDS_NEW_DRIVER;
    *is_mig = device->parent != NULL;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Device *device, unsigned *now, unsigned *pending) {
    NEEDS_NEW_DRIVER;
    ASK_WHOLE(device, "mig");
    *now = *pending = has_mig(device);
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) { *count = has_mig(device) ? 7 : 0; return SUCCESS; }

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **instance) {
    if (!has_mig(device) || index >= NUM_GPUS) return NOT_FOUND;
    *instance = &instances[index];
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *instance, Device **device) {
    if (!instance->parent) return INVALID_ARGUMENT;
    *device = instance->parent;
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(Device *instance, unsigned *id) { *id = instance->index + 7; return SUCCESS; }

/* 10, 11, 12, ... GiB in use on GPU 0, 20, 21, ... on GPU 1; version 1 counts 1 GiB of the driver's own on top. An
 * instance has 10 GiB, of which 1, 2, 3, ... are in use. */
static int ask_memory(Device *device) {
    (device->parent ? device->parent : device)->asked++;
    return refused(device, "memory");
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    int code = ask_memory(device);
    if (code) return code;
    memory->total = 80 * GIB;
    memory->used = (11 + 10 * device->index + device->used++) * GIB;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *memory) {
    NEEDS_NEW_DRIVER;
    int code = ask_memory(device);
    if (code) return code;
    if (memory->version != 0x02000028) return UNKNOWN;
    memory->total = (device->parent ? 10 : 80) * GIB;
    memory->reserved = device->parent ? 0 : GIB;
    memory->used = ((device->parent ? 1 : 10 + 10 * device->index) + device->used++) * GIB;
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device *device, Utilization *utilization) {
    ASK_WHOLE(device, "utilisation");
    utilization->gpu = 50 + 10 * (device->utilised++ % 5);
    utilization->memory = 25;
    return SUCCESS;
}

/* Kinds of clocks: 1 the SMs', 2 the memory's. */
int nvmlDeviceGetClockInfo(Device *device, unsigned kind, unsigned *mhz) {
    ASK_WHOLE(device, "clock");
    *mhz = kind == 1 ? 1500 + device->clock++ : 2600;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(Device *device, unsigned kind, unsigned *mhz) {
    ASK_WHOLE(device, "clock");
    *mhz = kind == 1 ? 1980 : 2600;
    return SUCCESS;
}

int nvmlDeviceGetApplicationsClock(Device *device, unsigned kind, unsigned *mhz) {
    ASK_WHOLE(device, "appclock");
    *mhz = is_set("NVML_STUB_WORN") ? 1200 : 1980;
    return SUCCESS;
}

int nvmlDeviceGetDefaultApplicationsClock(Device *device, unsigned kind, unsigned *mhz) {
    ASK_WHOLE(device, "appclock");
    *mhz = 1980;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    ASK_WHOLE(device, "power");
    unsigned call = device->power++;
    if (is_set("NVML_STUB_FLAKY") && call % 2) return UNKNOWN;
    *milliwatts = 200000 + 10000 * call;
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned *milliwatts) {
    ASK_WHOLE(device, "powerlimit");
    *milliwatts = is_set("NVML_STUB_WORN") ? 400000 : 700000;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementDefaultLimit(Device *device, unsigned *milliwatts) {
    ASK_WHOLE(device, "powerlimit");
    *milliwatts = 700000;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimitConstraints(Device *device, unsigned *least, unsigned *most) {
    ASK_WHOLE(device, "powerlimit");
    *least = 200000;
    *most = 750000;
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
    ASK_WHOLE(device, "energy");
    *millijoules = 5000000000ULL + 2500ULL * device->energy++; /* beyond 32 bits, 2.5 J more each time */
    return SUCCESS;
}

int nvmlDeviceGetTemperatureV(Device *device, Temperature *temperature) {
    NEEDS_NEW_DRIVER;
    ASK_WHOLE(device, "temperature");
    temperature->temperature = 40 + (int)device->heat++;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *celsius) {
    ASK_WHOLE(device, "temperature");
    *celsius = 40 + device->heat++;
    return SUCCESS;
}

/* Idle at the first call, the power cap at all others. */
static int clock_reasons(Device *device, unsigned long long *bits) {
    ASK_WHOLE(device, "throttle");
    *bits = device->throttle++ ? 4 : 1;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *bits) {
    NEEDS_NEW_DRIVER;
    return clock_reasons(device, bits);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *bits) {
    return clock_reasons(device, bits);
}

/* The modes and the health of a GPU. */
int nvmlDeviceGetPersistenceMode(Device *device, unsigned *mode) {
    ASK_WHOLE(device, "persistence");
    *mode = !is_set("NVML_STUB_WORN");
    return SUCCESS;
}

int nvmlDeviceGetComputeMode(Device *device, unsigned *mode) {
    ASK_WHOLE(device, "computemode");
    *mode = is_set("NVML_STUB_WORN") ? 3 : 0;
    return SUCCESS;
}

int nvmlDeviceGetEccMode(Device *device, unsigned *now, unsigned *pending) {
    ASK_WHOLE(device, "ecc");
    *now = *pending = 1;
    if (is_set("NVML_STUB_WORN")) *pending = 0;
    return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(Device *device, unsigned kind, unsigned since, unsigned long long *count) {
    ASK_WHOLE(device, "ecc");
    *count = is_set("NVML_STUB_WORN") ? (since ? 12 : 3) : 0;
    return SUCCESS;
}

int nvmlDeviceGetRemappedRows(Device *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed) {
    NEEDS_NEW_DRIVER;
    ASK_WHOLE(device, "rows");
    *corrected = *uncorrected = 0;
    *pending = *failed = is_set("NVML_STUB_WORN");
    return SUCCESS;
}

/* Where it sits. */
int nvmlDeviceGetCurrPcieLinkGeneration(Device *device, unsigned *number) {
    ASK_WHOLE(device, "pcie");
    *number = is_set("NVML_STUB_WORN") ? 1 : 5;
    return SUCCESS;
}

int nvmlDeviceGetMaxPcieLinkGeneration(Device *device, unsigned *number) {
    ASK_WHOLE(device, "pcie");
    *number = 5;
    return SUCCESS;
}

int nvmlDeviceGetCurrPcieLinkWidth(Device *device, unsigned *number) {
    ASK_WHOLE(device, "pcie");
    *number = is_set("NVML_STUB_WORN") ? 8 : 16;
    return SUCCESS;
}

int nvmlDeviceGetMaxPcieLinkWidth(Device *device, unsigned *number) {
    ASK_WHOLE(device, "pcie");
    *number = 16;
    return SUCCESS;
}

int nvmlDeviceGetNvLinkState(Device *device, unsigned link, unsigned *active) {
    ASK_WHOLE(device, "nvlink");
    if (link >= NUM_LINKS) return INVALID_ARGUMENT;
    *active = link < (is_set("NVML_STUB_WORN") ? 17 : NUM_LINKS);
    return SUCCESS;
}

int nvmlDeviceGetP2PStatus(Device *one, Device *other, unsigned kind, unsigned *status) {
    ASK_WHOLE(one, "nvlink");
    *status = kind == 2 && !is_set("NVML_STUB_WORN") ? 0 : 5;
    return SUCCESS;
}

int nvmlDeviceGetTopologyCommonAncestor(Device *one, Device *other, unsigned *level) {
    ASK_WHOLE(one, "topology");
    *level = 50;
    return SUCCESS;
}

/* Of 64 cores those with an even number for GPU 0, and NUMA node 0; the odd ones and node 1 for GPU 1. */
int nvmlDeviceGetCpuAffinity(Device *device, unsigned room, unsigned long *set) {
    ASK_WHOLE(device, "affinity");
    for (unsigned k = 0; k < room; k++) set[k] = 0;
    set[0] = 0x5555555555555555UL << device->index;
    return SUCCESS;
}

int nvmlDeviceGetMemoryAffinity(Device *device, unsigned room, unsigned long *set, unsigned scope) {
    NEEDS_NEW_DRIVER;
    ASK_WHOLE(device, "affinity");
    for (unsigned k = 0; k < room; k++) set[k] = 0;
    set[0] = 1UL << device->index;
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    ASK(device, "capability");
    *major = 9;
    *minor = 0;
    return SUCCESS;
}

static int list_processes(Device *device, unsigned *room, Process *processes) {
    unsigned count = 0;
    const char *at = is_set("NVML_STUB_HIDE_PIDS") ? NULL : getenv("NVML_STUB_PIDS");
    ASK(device, "processes");
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
    NEEDS_NEW_DRIVER;
    return list_processes(device, room, processes);
}

int nvmlDeviceGetComputeRunningProcesses_v2(Device *device, unsigned *room, Process *processes) {
    return list_processes(device, room, processes);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, unsigned *room, Process *processes) {
    NEEDS_NEW_DRIVER;
    ASK(device, "processes");
    *room = 0;
    return SUCCESS;
}

int nvmlGpmQueryDeviceSupport(Device *device, GpmSupport *support) {
    NEEDS_NEW_DRIVER;
    if (is_lost(device)) return GPU_IS_LOST;
    support->supported = !listed("NVML_STUB_UNSUPPORTED", "gpm");
    return SUCCESS;
}

int nvmlGpmSampleAlloc(GpmSample **sample) { *sample = calloc(1, sizeof **sample); return SUCCESS; }
int nvmlGpmSampleFree(GpmSample *sample) { free(sample); return SUCCESS; }

int nvmlGpmSampleGet(Device *device, GpmSample *sample) {
    ASK(device, "gpm");
    if (has_mig(device)) return INVALID_ARGUMENT;
    sample->taken = ++device->gpm;
    return SUCCESS;
}

int nvmlGpmMigSampleGet(Device *device, unsigned instance, GpmSample *sample) {
    ASK(device, "gpm");
    if (device->parent || instance < 7) return INVALID_ARGUMENT;
    sample->taken = ++device->gpm;
    return SUCCESS;
}

/* Right only if `before` is the snapshot just before `after`: 10 % of SM activity per snapshot, half of it of DRAM, 1 %
 * of the pipes, 100 MiB/s of PCIe and NVLink. There is no NVLink to send to. */
int nvmlGpmMetricsGet(GpmRequest *request) {
    if (request->version != 1 || request->after->taken != request->before->taken + 1) return UNKNOWN;
    for (unsigned k = 0; k < request->count; k++) {
        GpmMetric *metric = &request->metrics[k];
        unsigned id = metric->id;
        metric->result = id == 61 || (id == 60 && listed("NVML_STUB_UNSUPPORTED", "gpm60")) ? NOT_SUPPORTED : SUCCESS;
        metric->value = id == 2 ? 10.0 : id == 10 ? 5.0 : id >= 20 ? 100.0 : 1.0;
        metric->value *= (request->after->taken - 1) % 10 + 1; /* then it begins again: no share is above 100 % */
    }
    return SUCCESS;
}
