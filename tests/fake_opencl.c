/* Stands in for libOpenCL.so.1 with GPUs that have no other driver (Intel's, for one): the simulated GPUs of fake_gpu.c, of which
 * fake_kernel.c tells as the kernel does. Every call that begins with FAIL or GIVE can be made to fail.
 */
#include "fake_gpu.c"

/* like the kernel, which has done its accounts when a call returns */
void fake_settle(void) {
  if (!there()) return;
  int asked = __sync_add_and_fetch(&s->asked, 1);
  for (int n = 0; n < 2000 && s->written - asked < 0; n++) usleep(500);
}
void fake_vendor(int vendor) { s->version = vendor; }
void fake_generous(void) { s->swapped = 1; } /* more is given than there is, as where it is moved to the machine's memory */

#define GIVE(name, object) \
  do { \
    if (!there()) return NULL; \
    int code = failing(#name); \
    if (error) *error = code; \
    return code ? NULL : (object); \
  } while (0)

static unsigned rounds;
struct cl_event { double from, to; };

int clGetPlatformIDs(unsigned room, void **found, unsigned *count) {
  FAIL(clGetPlatformIDs);
  if (count) *count = 1;
  if (found) *found = (void *)1;
  return 0;
}
int clGetDeviceIDs(void *platform, u64 type, unsigned room, void **found, unsigned *count) {
  FAIL(clGetDeviceIDs);
  if (count) *count = s->gpus;
  for (unsigned i = 0; found && i < room; i++) found[i] = &s->gpu[i];
  return 0;
}
int clGetDeviceInfo(struct gpu *g, unsigned what, size_t room, void *found, size_t *size) {
  FAIL(clGetDeviceInfo);
  u64 number = what == 0x1000 ? 4 : what == 0x101F ? g->total : what == 0x1010 ? g->total / 4 : what == 0x1035 ? g->integrated
             : what == 0x1002 ? 64 : what == 0x1001 ? (s->version ? s->version : 0x8086) : 0;
  unsigned place[4] = {0, 0x43 + 16 * (g - s->gpu), 0, 0};
  if (what == 0x102B) return *size = strlen(g->name) + 1, memcpy(found, g->name, *size), 0;
  if (what == 0x410F) return failing("cl_khr_pci_bus_info") ? -30 : (*size = sizeof place, memcpy(found, place, *size), 0);
  if (what == 0x106A) return *size = 16, memset(found, g - s->gpu, 16), 0;
  return *size = 8, memcpy(found, &number, 8), 0;
}
static void *context(struct gpu *g) {
  void *found;
  mine = g - s->gpu;
  int code = cuCtxCreate_v2(&found, 0, 0);
  fake_settle();
  return code ? NULL : found;
}
void *clCreateContext(void *properties, unsigned devices, struct gpu **g, void *call, void *data, int *error) { GIVE(clCreateContext, context(*g)); }
void *clCreateCommandQueue(void *context, void *device, u64 properties, int *error) { GIVE(clCreateCommandQueue, &mine); }
void *clCreateProgramWithSource(void *context, unsigned count, const char **source, size_t *sizes, int *error) {
  GIVE(clCreateProgramWithSource, strstr(*source, "__kernel void burn") ? &mine : NULL);
}
int clBuildProgram(void *program, unsigned devices, void *list, const char *options, void *call, void *data) { FAIL(clBuildProgram); return 0; }
void *clCreateKernel(void *program, const char *name, int *error) { GIVE(clCreateKernel, &rounds); }
int clSetKernelArg(void *kernel, unsigned index, size_t size, void *value) {
  FAIL(clSetKernelArg);
  if (index == 1) rounds = *(unsigned *)value;
  return 0;
}
int clEnqueueNDRangeKernel(void *queue, void *kernel, unsigned dimensions, void *offset, size_t *size, size_t *group, unsigned waits, void *list, struct cl_event **event) {
  FAIL(clEnqueueNDRangeKernel);
  struct cl_event *e = *event = calloc(1, sizeof *e);
  int code = cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, (void *[]){NULL, &rounds}, NULL);
  e->to = busy_until, e->from = e->to - rounds * ROUND_S;
  return code;
}
int clFlush(void *queue) { FAIL(clFlush); return 0; }
int clFinish(void *queue) { FAIL(clFinish); return 0; }
int clGetEventInfo(struct cl_event *e, unsigned what, size_t room, int *status, void *size) { FAIL(clGetEventInfo); return *status = now() < e->to, 0; }
int clGetEventProfilingInfo(struct cl_event *e, unsigned what, size_t room, u64 *ns, void *size) {
  FAIL(clGetEventProfilingInfo);
  return *ns = 1e9 * (what == 0x1282 ? e->from : e->to), 0;
}
int clReleaseEvent(struct cl_event *e) { FAIL(clReleaseEvent); return free(e), 0; }
/* the handle's upper half numbers the buffer, its lower half is its size in KiB */
static void *buffer(size_t size, int *error) {
  static u64 number;
  lock();
  int full = s->gpu[mine].total < used(mine) + size && !s->swapped;
  if (!full) own(mine, getpid())->bytes += size;
  unlock(), fake_settle();
  return *error = full ? -4 : 0, full ? NULL : (void *)(++number << 32 | size >> 10);
}
void *clCreateBuffer(void *context, u64 flags, size_t size, void *host, int *error) { GIVE(clCreateBuffer, buffer(size, error)); }
int clEnqueueFillBuffer(void *queue, void *found, void *pattern, size_t length, size_t offset, size_t size, unsigned waits, void *list, void *event) {
  FAIL(clEnqueueFillBuffer);
  return 0;
}
int clReleaseMemObject(void *found) {
  FAIL(clReleaseMemObject);
  lock(), own(mine, getpid())->bytes -= ((u64)found & 0xffffffff) << 10, unlock(), fake_settle();
  return 0;
}
int clReleaseCommandQueue(void *queue) { FAIL(clReleaseCommandQueue); return 0; }
int clReleaseContext(void *context) {
  FAIL(clReleaseContext);
  int code = cuCtxDestroy_v2(context);
  fake_settle();
  return code;
}
