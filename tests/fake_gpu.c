/* Stands in for libcuda.so.1 and libnvidia-ml.so.1 where there is no GPU: one library under both names, its state in a file that
 * all processes share (BLACKSTART_FAKE_GPU), those in containers as well. Kernels take 20 us a round of wall time and compute nothing.
 * As with a driver, what a process has goes when it dies, and one of another container has the pid by which the machine knows it, or one
 * that means nothing here. Every call that begins with FAIL can be made to fail. `blackstart_simulated` says what it is. Where nothing
 * names the file it is a device, as a container's runtime puts it there.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define GPUS 8
#define PROCESSES 64
#define TIMES 4096
#define ROUND_S 20e-6
#define CONTEXT (300ull << 20)
#define HANGS (-1)
#define DEVICE "/dev/blackstart-fake-gpu"
#define ELSEWHERE (1 << 22) /* what is added to pids of other containers: more than any pid */

typedef unsigned long long u64;
struct gpu { char uuid[64], parent[64], name[64]; u64 total; int capability, temperature, power_mw, limit_mw, integrated, mode, mps, set_mw, other_mw; };
struct process { int pid, gpu; u64 bytes, room; };
struct busy { int pid, gpu; u64 room; double from, to; };
struct state {
  int gpus, at, fail_code, fail_after, host, untold, step_mw, asked, written, version, chip, swapped, idle;
  char fail[64];
  struct gpu gpu[GPUS];
  struct process process[PROCESSES];
  struct busy busy[TIMES];
};
struct event { double at; };
struct utilisation { unsigned pid; u64 at; unsigned sm, memory, encoder, decoder; };
struct pci { char legacy[16]; unsigned domain, bus, device, model, board; char name[32]; };
struct listed { unsigned pid; u64 bytes; unsigned instance, compute; };

int blackstart_simulated = 1;
static struct state *s;
static int file = -1, mine = -1;
static double busy_until;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

int fake_open(const char *path) {
  file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, sizeof(struct state))) return 1;
  s = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  return s == MAP_FAILED;
}

static int there(void) {
  const char *path = getenv("BLACKSTART_FAKE_GPU");
  return s || (path ? !fake_open(path) : !access(DEVICE, W_OK) && !fake_open(DEVICE));
}

/* the PID namespace that this process is in */
static u64 here(void) {
  struct stat found;
  return stat("/proc/self/ns/pid", &found) ? 0 : found.st_ino;
}

/* the byte that whoever made an entry holds locked: the kernel frees it when that process dies, in whatever container */
static struct flock byte_of(struct process *p, int type) {
  return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = sizeof(struct state) + (p - s->process), .l_len = 1};
}

/* another byte, of which the kernel tells its holder's pid as it is here; 0: that means nothing here */
static struct flock told_by(struct process *p, int type) {
  struct flock found = byte_of(p, type);
  return found.l_start += PROCESSES, found;
}

static int pid_here(struct process *p) {
  struct flock asked = told_by(p, F_WRLCK);
  return fcntl(file, F_GETLK, &asked) || asked.l_type == F_UNLCK || asked.l_pid < 1 ? 0 : asked.l_pid;
}

static char holding[PROCESSES]; /* entries whose byte is locked here, which F_OFD_GETLK does not tell */

static int lives_there(struct process *p) {
  if (holding[p - s->process]) return 1;
  struct flock asked = byte_of(p, F_WRLCK);
  return !fcntl(file, F_OFD_GETLK, &asked) && asked.l_type != F_UNLCK;
}

static int lives(int pid) {
  char path[64], text[512], *end;
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  int stat = open(path, O_RDONLY | O_CLOEXEC);
  if (stat < 0) return 0;
  ssize_t size = read(stat, text, sizeof text - 1);
  close(stat);
  text[size > 0 ? size : 0] = 0;
  end = strrchr(text, ')');
  return end && end[2] != 'Z' && end[2] != 'X';
}

static void forget(struct process *p) {
  struct flock freed = byte_of(p, F_UNLCK);
  fcntl(file, F_OFD_SETLK, &freed);
  freed = told_by(p, F_UNLCK);
  fcntl(file, F_SETLK, &freed);
  holding[p - s->process] = 0;
  memset(p, 0, sizeof *p);
}

static void lock(void) {
  flock(file, LOCK_EX);
  for (int i = 0; i < PROCESSES; i++)
    if (s->process[i].pid && !(lives_there(&s->process[i]) && (s->process[i].room != here() || lives(s->process[i].pid))))
      forget(&s->process[i]);
}

static void unlock(void) { flock(file, LOCK_UN); }

static struct process *own(int gpu, int pid) {
  struct process *room = NULL;
  for (int i = 0; i < PROCESSES; i++) {
    if (s->process[i].pid == pid && s->process[i].gpu == gpu && s->process[i].room == here()) return &s->process[i];
    if (!s->process[i].pid) room = &s->process[i];
  }
  if (room) {
    *room = (struct process){pid, gpu, 0, here()};
    struct flock held = byte_of(room, F_WRLCK);
    fcntl(file, F_OFD_SETLK, &held);
    held = told_by(room, F_WRLCK);
    fcntl(file, F_SETLK, &held);
    holding[room - s->process] = 1;
  }
  return room;
}

static u64 used(int gpu) {
  u64 sum = 0;
  for (int i = 0; i < PROCESSES; i++)
    if (s->process[i].pid && s->process[i].gpu == gpu) sum += s->process[i].bytes;
  return sum;
}

static unsigned told(struct process *p) {
  int there = p->room == here() ? p->pid : pid_here(p);
  return (there ? there : p->pid + ELSEWHERE) + s->host;
}

/* percent of the last second; pid 0: of all */
static int share(int gpu, int pid, u64 room) {
  double sum = 0, to = now(), from = to - 1;
  for (int i = 0; i < TIMES; i++) {
    struct busy *b = &s->busy[i];
    if (b->gpu != gpu || (pid && (b->pid != pid || b->room != room))) continue;
    double a = b->from > from ? b->from : from, z = b->to < to ? b->to : to;
    if (z > a) sum += z - a;
  }
  return sum >= 1 ? 100 : (int)(100 * sum);
}

static int failing(const char *name) {
  if (!s || strcmp(s->fail, name)) return 0;
  if (s->fail_after > 0) return s->fail_after--, 0;
  while (s->fail_code == HANGS) pause();
  return s->fail_code;
}

#define FAIL(name) \
  do { \
    if (!there()) return 9; \
    int code = failing(#name); \
    if (code) return code; \
  } while (0)

/* --- for the tests --- */

void fake_gpu(int i, const char *uuid, const char *parent, const char *name, u64 mib, int capability) {
  struct gpu *g = &s->gpu[i];
  strcpy(g->uuid, uuid), strcpy(g->parent, parent), strcpy(g->name, name);
  g->total = mib << 20, g->capability = capability, g->temperature = 40, g->power_mw = 90000, g->limit_mw = g->set_mw = 700000;
  if (i >= s->gpus) s->gpus = i + 1;
}
void fake_set(int i, int temperature, int power_mw) { s->gpu[i].temperature = temperature, s->gpu[i].power_mw = power_mw; }
void fake_sharing(int i, int mode, int mps) { s->gpu[i].mode = mode, s->gpu[i].mps = mps; }
int fake_limit_w(int i) { return s->gpu[i].set_mw / 1000; }
void fake_set_limit_w(int i, int watts) { s->gpu[i].set_mw = watts * 1000; }
void fake_other_limit_w(int i, int watts) { s->gpu[i].other_mw = watts * 1000; } /* another limiter's, as a board's or a rack's; 0: none */
void fake_container(void) { s->host = 1 << 23; } /* pids are told as on a host, beyond all that is here */
void fake_untold(void) { s->untold = 1; } /* nobody tells how many bytes a process has */
void fake_step_w(int watts) { s->step_mw = watts * 1000; } /* a limit of power is rounded down to a multiple of it */
void fake_idle(int pid) { s->idle = pid; } /* NVML does not tell its share of the work */
void fake_integrated(int i) { s->gpu[i].integrated = 1; }
void fake_process(int i, int pid, u64 mib) { lock(), own(i, pid)->bytes = mib << 20, unlock(); }
void fake_fail(const char *name, int code, int after) { strcpy(s->fail, name), s->fail_code = code, s->fail_after = after; }
u64 fake_used(int i) { lock(); u64 sum = used(i); return unlock(), sum >> 20; }
int fake_share(int i) { return share(i, 0, 0); }

/* --- the CUDA driver --- */

int cuInit(unsigned flags) {
  FAIL(cuInit);
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  for (int i = 0; i < s->gpus; i++)
    if (visible && !strncmp(s->gpu[i].uuid, visible, strlen(visible))) mine = i;
  return mine < 0 ? 100 : 0;
}
int cuDeviceGet(int *device, int index) { FAIL(cuDeviceGet); return *device = 0, index ? 101 : 0; }
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
  FAIL(cuDeviceGetUuid_v2);
  const char *text = strchr(s->gpu[mine].uuid, '-') + 1;
  for (int n = 0; n < 16; text += 2) {
    unsigned byte;
    if (*text == '-') text++;
    sscanf(text, "%2x", &byte), uuid[n++] = byte;
  }
  return 0;
}
int cuDeviceGetAttribute(int *found, int what, int device) {
  FAIL(cuDeviceGetAttribute);
  int c = s->gpu[mine].capability;
  *found = what == 75 ? c / 10 : what == 76 ? c % 10 : what == 16 ? 132 : what == 18 ? s->gpu[mine].integrated : 0;
  return 0;
}
int cuCtxCreate_v2(void **context, unsigned flags, int device) {
  FAIL(cuCtxCreate_v2);
  lock();
  int code = s->gpu[mine].total - used(mine) < CONTEXT ? 2 : 0;
  if (!code) own(mine, getpid())->bytes += CONTEXT;
  *context = &mine;
  return unlock(), code;
}
int cuCtxDestroy_v2(void *context) {
  FAIL(cuCtxDestroy_v2);
  lock();
  forget(own(mine, getpid()));
  return unlock(), 0;
}
int cuModuleLoadData(void **module, const char *image) {
  FAIL(cuModuleLoadData);
  *module = (void *)1;
  return strstr(image, ".visible .entry burn") ? 0 : 218;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
  FAIL(cuModuleGetFunction);
  return *function = (void *)1, strcmp(name, "burn") ? 500 : 0;
}
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream,
                   void **arguments, void **extra) {
  FAIL(cuLaunchKernel);
  double from = now() > busy_until ? now() : busy_until;
  busy_until = from + *(unsigned *)arguments[1] * ROUND_S;
  lock();
  s->busy[s->at++ % TIMES] = (struct busy){getpid(), mine, here(), from, busy_until};
  return unlock(), gx ? 0 : 1;
}
int cuEventCreate(void **event, unsigned flags) { FAIL(cuEventCreate); return *event = calloc(1, sizeof(struct event)), 0; }
int cuEventRecord(struct event *event, void *stream) {
  FAIL(cuEventRecord);
  return event->at = now() > busy_until ? now() : busy_until, 0;
}
int cuEventQuery(struct event *event) { FAIL(cuEventQuery); return now() < event->at ? 600 : 0; }
int cuEventElapsedTime(float *ms, struct event *from, struct event *to) {
  FAIL(cuEventElapsedTime);
  return *ms = 1000 * (to->at - from->at), 0;
}
int cuEventDestroy_v2(void *event) { FAIL(cuEventDestroy_v2); return free(event), 0; }
int cuMemGetInfo_v2(size_t *left, size_t *total) {
  FAIL(cuMemGetInfo_v2);
  lock(), *total = s->gpu[mine].total, *left = *total - used(mine), unlock();
  return 0;
}
/* the handle's upper half numbers the allocation, its lower half is its size in KiB */
int cuMemAlloc_v2(u64 *found, size_t size) {
  static u64 number;
  FAIL(cuMemAlloc_v2);
  lock();
  int code = s->gpu[mine].total - used(mine) < size ? 2 : 0;
  if (!code) own(mine, getpid())->bytes += size, *found = ++number << 32 | size >> 10;
  return unlock(), code;
}
int cuMemFree_v2(u64 handle) {
  FAIL(cuMemFree_v2);
  lock(), own(mine, getpid())->bytes -= (handle & 0xffffffff) << 10, unlock();
  return 0;
}

/* --- NVML --- */

int nvmlInit_v2(void) { FAIL(nvmlInit_v2); return 0; }
static int whole(int n) { /* the n-th that is no slice */
  for (int i = 0; i < s->gpus; i++)
    if (!*s->gpu[i].parent && !n--) return i;
  return -1;
}
static int of(void *handle) { return (struct gpu *)handle - s->gpu; }
static int give(void **handle, int i, int none) { return i < 0 ? none : (*handle = &s->gpu[i], 0); }
int nvmlDeviceGetCount_v2(unsigned *count) {
  FAIL(nvmlDeviceGetCount_v2);
  for (*count = 0; whole(*count) >= 0; ++*count) {}
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { FAIL(nvmlDeviceGetHandleByIndex_v2); return give(handle, whole(index), 6); }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
  FAIL(nvmlDeviceGetHandleByUUID);
  for (int i = 0; i < s->gpus; i++)
    if (!strcmp(s->gpu[i].uuid, uuid)) return give(handle, i, 6);
  return 6;
}
static int slice(struct gpu *g, int n) {
  for (int i = 0; i < s->gpus; i++)
    if (!strcmp(s->gpu[i].parent, g->uuid) && !n--) return i;
  return -1;
}
int nvmlDeviceGetMigMode(struct gpu *g, unsigned *is, unsigned *will) {
  FAIL(nvmlDeviceGetMigMode);
  return *is = *will = slice(g, 0) >= 0, 0;
}
int nvmlDeviceGetMaxMigDeviceCount(struct gpu *g, unsigned *count) { FAIL(nvmlDeviceGetMaxMigDeviceCount); return *count = 7, 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(struct gpu *g, unsigned index, void **handle) {
  FAIL(nvmlDeviceGetMigDeviceHandleByIndex);
  return give(handle, slice(g, index), 6);
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(struct gpu *g, void **handle) {
  FAIL(nvmlDeviceGetDeviceHandleFromMigDeviceHandle);
  for (int i = 0; i < s->gpus; i++)
    if (!strcmp(s->gpu[i].uuid, g->parent)) return give(handle, i, 2);
  return 2;
}
int nvmlDeviceGetUUID(struct gpu *g, char *text, unsigned size) { FAIL(nvmlDeviceGetUUID); return strncpy(text, g->uuid, size), 0; }
int nvmlDeviceGetPciInfo_v3(struct gpu *g, struct pci *found) {
  FAIL(nvmlDeviceGetPciInfo_v3);
  return *found = (struct pci){.domain = 0xffff, .bus = 0x17 + of(g)}, 0;
}
int nvmlDeviceGetName(struct gpu *g, char *text, unsigned size) { FAIL(nvmlDeviceGetName); return strncpy(text, g->name, size), 0; }
int nvmlDeviceGetMemoryInfo(struct gpu *g, u64 *found) {
  FAIL(nvmlDeviceGetMemoryInfo);
  lock(), found[0] = g->total, found[2] = used(of(g)), found[1] = found[0] - found[2], unlock();
  return 0;
}
int nvmlDeviceGetTemperature(struct gpu *g, unsigned sensor, unsigned *found) { FAIL(nvmlDeviceGetTemperature); return *found = g->temperature, 0; }
int nvmlDeviceGetPowerUsage(struct gpu *g, unsigned *found) { FAIL(nvmlDeviceGetPowerUsage); return *found = g->power_mw, 0; }
int nvmlDeviceGetEnforcedPowerLimit(struct gpu *g, unsigned *found) { FAIL(nvmlDeviceGetEnforcedPowerLimit); return *found = g->other_mw && g->other_mw < g->set_mw ? g->other_mw : g->set_mw, 0; }
int nvmlDeviceGetPowerManagementLimit(struct gpu *g, unsigned *found) { FAIL(nvmlDeviceGetPowerManagementLimit); return *found = g->set_mw, 0; }
int nvmlDeviceGetPowerManagementLimitConstraints(struct gpu *g, unsigned *least, unsigned *most) {
  FAIL(nvmlDeviceGetPowerManagementLimitConstraints);
  return *least = 200000, *most = g->limit_mw, 0;
}
int nvmlDeviceSetPowerManagementLimit(struct gpu *g, unsigned mw) { FAIL(nvmlDeviceSetPowerManagementLimit); return g->set_mw = mw - (s->step_mw ? mw % s->step_mw : 0), 0; }
int nvmlDeviceGetCurrentClocksEventReasons(struct gpu *g, u64 *found) {
  FAIL(nvmlDeviceGetCurrentClocksEventReasons);
  return *found = g->set_mw < g->limit_mw ? 4 : 1, 0;
}
int nvmlDeviceGetClockInfo(struct gpu *g, unsigned clock, unsigned *found) { FAIL(nvmlDeviceGetClockInfo); return *found = 1980, 0; }
int nvmlDeviceGetUtilizationRates(struct gpu *g, unsigned *found) {
  FAIL(nvmlDeviceGetUtilizationRates);
  if (*g->parent) return 3;
  return found[0] = share(of(g), 0, 0), found[1] = 0, 0;
}
int nvmlDeviceGetProcessUtilization(struct gpu *g, struct utilisation *rows, unsigned *count, u64 since) {
  FAIL(nvmlDeviceGetProcessUtilization);
  if (*g->parent) return 3;
  unsigned n = 0;
  lock();
  for (int i = 0; i < PROCESSES && n < *count; i++)
    if (s->process[i].pid && s->process[i].gpu == of(g) && s->process[i].pid != s->idle)
      rows[n++] = (struct utilisation){told(&s->process[i]), since, share(of(g), s->process[i].pid, s->process[i].room), 0, 0, 0};
  unlock();
  return *count = n, n ? 0 : 6;
}
int nvmlDeviceGetCudaComputeCapability(struct gpu *g, int *major, int *minor) {
  FAIL(nvmlDeviceGetCudaComputeCapability);
  return *major = g->capability / 10, *minor = g->capability % 10, 0;
}
int nvmlDeviceGetComputeMode(struct gpu *g, unsigned *found) { FAIL(nvmlDeviceGetComputeMode); return *found = g->mode, 0; }
static int list(struct gpu *g, unsigned *count, struct listed *rows, int wanted) {
  unsigned n = 0;
  lock();
  for (int i = 0; i < PROCESSES && n < *count && wanted; i++)
    if (s->process[i].pid && s->process[i].gpu == of(g))
      rows[n++] = (struct listed){told(&s->process[i]), s->untold ? ~0ull : s->process[i].bytes, 0, 0};
  return unlock(), *count = n, 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(struct gpu *g, unsigned *count, struct listed *rows) {
  FAIL(nvmlDeviceGetComputeRunningProcesses_v3);
  return list(g, count, rows, !g->mps);
}
int nvmlDeviceGetMPSComputeRunningProcesses_v3(struct gpu *g, unsigned *count, struct listed *rows) {
  FAIL(nvmlDeviceGetMPSComputeRunningProcesses_v3);
  return list(g, count, rows, g->mps);
}
