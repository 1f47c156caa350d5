/* Stands in for libamdhip64.so and libhiprtc.so where there is no GPU of AMD's: the same simulated GPUs as fake_gpu.c has, of which
 * fake_kernel.c tells as the kernel does. What is compiled is a text that names the chip. Every call that begins with FAIL can be made
 * to fail.
 */
#include "fake_gpu.c"

static int visible[GPUS], count = -1;

void fake_chip(int chip) { s->chip = chip; }
void fake_version(int version) { s->version = version; }
void fake_swapped(void) { s->swapped = 1; } /* UUIDs are those of others */

static const char *chip(void) {
  static char name[16];
  int version = s->chip ? s->chip : 90010;
  return sprintf(name, "gfx%d%d%x", version / 10000, version / 100 % 100, version % 100), name;
}
static const char *code(void) { static char text[32]; return sprintf(text, "burn for %s", chip()), text; }

/* like the kernel, which has done its accounts when a call returns */
void fake_settle(void) {
  if (!there()) return;
  int asked = __sync_add_and_fetch(&s->asked, 1);
  for (int n = 0; n < 2000 && s->written - asked < 0; n++) usleep(500);
}

static int named(const char *text, int place, int gpu) { /* whether a list of indexes and UUIDs has it; NULL has all */
  if (!text) return 1;
  char own[8], list[256], *rest = list, *word;
  snprintf(own, sizeof own, "%d", place), snprintf(list, sizeof list, "%s", text);
  while ((word = strsep(&rest, ",")))
    if (!strcmp(word, own) || (!strncmp(word, "GPU-", 4) && !strncmp(word, s->gpu[gpu].uuid, strlen(word)))) return 1;
  return 0;
}

int hipInit(unsigned flags) {
  FAIL(hipInit);
  int place = count = 0; /* HIP counts within what the runtime below it lets in */
  for (int i = 0; i < s->gpus; i++)
    if (named(getenv("ROCR_VISIBLE_DEVICES"), i, i) && named(getenv("HIP_VISIBLE_DEVICES"), place++, i)) visible[count++] = i;
  return count ? 0 : 100;
}
int hipRuntimeGetVersion(int *version) { FAIL(hipRuntimeGetVersion); return *version = s->version ? s->version : 60342131, 0; }
int hipGetDeviceCount(int *found) { FAIL(hipGetDeviceCount); return *found = count, 0; }
int hipDeviceGet(int *device, int index) { FAIL(hipDeviceGet); return *device = index, index < count ? 0 : 101; }
int hipDeviceGetPCIBusId(char *text, int size, int device) {
  FAIL(hipDeviceGetPCIBusId);
  return snprintf(text, size, "0000:%02X:00.0", 0x43 + 16 * visible[device]), 0;
}
int hipDeviceGetUuid(char *uuid, int device) {
  FAIL(hipDeviceGetUuid);
  const char *own = s->gpu[s->swapped ? !visible[device] : visible[device]].uuid;
  return memcpy(uuid, *own ? own + 4 : "XX\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16), 0;
}
int hipDeviceGetAttribute(int *found, int what, int device) {
  FAIL(hipDeviceGetAttribute);
  return *found = what == 16 ? s->gpu[visible[device]].integrated : 0, 0;
}
int hipSetDevice(int device) {
  FAIL(hipSetDevice);
  void *context;
  mine = visible[device];
  int code = cuCtxCreate_v2(&context, 0, device);
  fake_settle();
  return code;
}
int hipDeviceReset(void) {
  FAIL(hipDeviceReset);
  int code = cuCtxDestroy_v2(NULL);
  fake_settle();
  return code;
}
int hipModuleLoadData(void **module, const char *image) {
  FAIL(hipModuleLoadData);
  *module = (void *)1;
  return strcmp(image, code()) ? 209 : 0;
}
int hipModuleGetFunction(void **function, void *module, const char *name) {
  FAIL(hipModuleGetFunction);
  return *function = (void *)1, strcmp(name, "burn") ? 500 : 0;
}
int hipModuleLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                          void *stream, void **arguments, void **extra) {
  FAIL(hipModuleLaunchKernel);
  return cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, stream, arguments, extra);
}
int hipEventCreateWithFlags(void **event, unsigned flags) { FAIL(hipEventCreateWithFlags); return cuEventCreate(event, flags); }
int hipEventRecord(struct event *event, void *stream) { FAIL(hipEventRecord); return cuEventRecord(event, stream); }
int hipEventQuery(struct event *event) { FAIL(hipEventQuery); return cuEventQuery(event); }
int hipEventElapsedTime(float *ms, struct event *from, struct event *to) {
  FAIL(hipEventElapsedTime);
  return cuEventElapsedTime(ms, from, to);
}
int hipEventDestroy(struct event *event) { FAIL(hipEventDestroy); return cuEventDestroy_v2(event); }
int hipMemGetInfo(size_t *left, size_t *total) { /* as older ones do: of others it knows nothing */
  FAIL(hipMemGetInfo);
  lock(), *total = s->gpu[mine].total, *left = *total - own(mine, getpid())->bytes, unlock();
  return 0;
}
int hipMalloc(u64 *found, size_t size) {
  FAIL(hipMalloc);
  int code = cuMemAlloc_v2(found, size);
  fake_settle();
  return code;
}
int hipFree(u64 handle) {
  FAIL(hipFree);
  int code = cuMemFree_v2(handle);
  fake_settle();
  return code;
}

/* --- the compiler --- */

struct program { char *source; int done; };
int hiprtcCreateProgram(struct program **program, const char *source, const char *name, int headers, const char **texts, const char **names) {
  FAIL(hiprtcCreateProgram);
  *program = calloc(1, sizeof(struct program));
  return (*program)->source = strdup(source), 0;
}
int hiprtcCompileProgram(struct program *program, int options, const char **option) {
  FAIL(hiprtcCompileProgram);
  char wanted[32];
  sprintf(wanted, "--offload-arch=%s", chip());
  program->done = options == 1 && !strcmp(option[0], wanted) && strstr(program->source, "extern \"C\"") && strstr(program->source, "burn(");
  return program->done ? 0 : 6;
}
int hiprtcGetProgramLogSize(struct program *program, size_t *size) { FAIL(hiprtcGetProgramLogSize); return *size = 32, 0; }
int hiprtcGetProgramLog(struct program *program, char *log) { FAIL(hiprtcGetProgramLog); return strcpy(log, "burn.hip:1: what is this"), 0; }
int hiprtcGetCodeSize(struct program *program, size_t *size) { FAIL(hiprtcGetCodeSize); return *size = strlen(code()) + 1, 0; }
int hiprtcGetCode(struct program *program, char *image) { FAIL(hiprtcGetCode); return strcpy(image, code()), 0; }
int hiprtcDestroyProgram(struct program **program) { FAIL(hiprtcDestroyProgram); return free((*program)->source), free(*program), 0; }
