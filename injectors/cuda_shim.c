/* Between a program and libcuda: what the linker binds of the driver, and what cuGetProcAddress gives out, goes through here, and fails as
 * on a GPU that is lost while a control file says so. Loaded by the dynamic linker as an auditing library (rtld-audit(7)), which shows it
 * every symbol as it is bound, those that are looked up by dlsym among them; those that cuGetProcAddress gives out are replaced there.
 * These pass: cuGetProcAddress itself, calls that only tell what something is, what is reached through the tables of cuGetExportTable, and
 * functions of which a program that is linked with the driver has the address (a pointer, -fno-plt): the linker shows nobody those.
 *
 *     LD_AUDIT=/path/libblackstart_cuda.so BLACKSTART_CUDA=/path/control PROGRAM
 *
 * The control file is made when the program starts: 40 bytes of the boot's id, the moment of CLOCK_MONOTONIC in nanoseconds up to which
 * the GPU is lost (0: it is not), and the code that calls then return. Past that moment, or after another boot, calls go through again
 * whoever died meanwhile. A file that is there already and neither empty nor of that size is somebody's: it is left alone, and all calls
 * go through. Nothing is locked, nothing is counted; calls of NVML are left alone.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the stubs are written for x86-64"
#endif

#define STUBS 2048 /* CUDA 13 has some 700 calls */

struct control { char boot[40]; volatile uint64_t until_ns; volatile uint32_t code, unused; };

static struct control none, *control = &none;
static char boot[40];
static void *real[STUBS];
static char names[STUBS][64];
static int used;

static void reading(const char *path, char *into, size_t size) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t got = file < 0 ? 0 : read(file, into, size);
  if (got > 0 && into[got - 1] == '\n') into[got - 1] = 0;
  if (file >= 0) close(file);
}

/* Whether that file is a control file, or becomes one by this. */
static int ours(int file) {
  struct stat there;
  if (fstat(file, &there)) return 0;
  return there.st_size == sizeof(struct control) || (!there.st_size && !ftruncate(file, sizeof(struct control)));
}

static void opened(void) {
  const char *path = getenv("BLACKSTART_CUDA");
  int file = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
  if (file < 0) return;
  void *found = ours(file) ? mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  if (found != MAP_FAILED) control = found;
  reading("/proc/sys/kernel/random/boot_id", boot, sizeof boot - 1);
  close(file);
}

static int lost(void) {
  struct timespec now;
  if (!control->until_ns) return 0;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000ull + now.tv_nsec < control->until_ns && !strncmp(control->boot, boot, sizeof boot);
}

static int refused(void) { return control->code; }

/* Where the call with that number goes; called by the stubs. */
__attribute__((used)) void *blackstart_way(long number) { return lost() ? (void *)refused : real[number]; }

/* One stub a call, 16 bytes each: it notes its number. What is common to them keeps all registers that may hold arguments. */
__asm__(
    ".text\n.balign 16\nblackstart_stubs:\n"
    ".set number, 0\n.rept 2048\n.balign 16\nendbr64\npushq $number\njmp blackstart_common\n.set number, number + 1\n.endr\n"
    "blackstart_common:\n"
    "push %rax\npush %rdi\npush %rsi\npush %rdx\npush %rcx\npush %r8\npush %r9\npush %r10\n"
    "movq 64(%rsp), %rdi\n"
    "sub $128, %rsp\n"
    "movups %xmm0, (%rsp)\nmovups %xmm1, 16(%rsp)\nmovups %xmm2, 32(%rsp)\nmovups %xmm3, 48(%rsp)\n"
    "movups %xmm4, 64(%rsp)\nmovups %xmm5, 80(%rsp)\nmovups %xmm6, 96(%rsp)\nmovups %xmm7, 112(%rsp)\n"
    "call blackstart_way\nmov %rax, %r11\n"
    "movups (%rsp), %xmm0\nmovups 16(%rsp), %xmm1\nmovups 32(%rsp), %xmm2\nmovups 48(%rsp), %xmm3\n"
    "movups 64(%rsp), %xmm4\nmovups 80(%rsp), %xmm5\nmovups 96(%rsp), %xmm6\nmovups 112(%rsp), %xmm7\n"
    "add $128, %rsp\n"
    "pop %r10\npop %r9\npop %r8\npop %rcx\npop %rdx\npop %rsi\npop %rdi\npop %rax\n"
    "lea 8(%rsp), %rsp\njmp *%r11\n");
extern char blackstart_stubs[];

/* Through which all calls of that name go; the same for every version of it that is asked for. Two threads that bind at once take one each. */
static void *stub_for(const char *name, void *function) {
  for (int i = 0; i < used && i < STUBS; i++)
    if (real[i] == function && !strncmp(names[i], name, sizeof names[i] - 1)) return blackstart_stubs + 16 * i;
  int mine = __atomic_fetch_add(&used, 1, __ATOMIC_SEQ_CST);
  if (mine >= STUBS) return function;
  strncpy(names[mine], name, sizeof names[mine] - 1);
  real[mine] = function;
  return blackstart_stubs + 16 * mine;
}

/* Whether calls of that name fail on a lost GPU: all of the driver's but those that only tell what something is. Asked in any of the
 * program's threads, where <ctype.h> must not be used: its tables are made per thread by the libc that starts it, which is not this library's.
 */
static int wanted(const char *name) {
  static const char *const telling[] = {"cuGetErrorName", "cuGetErrorString", "cuDriverGetVersion", "cuGetExportTable"};
  for (unsigned i = 0; i < sizeof telling / sizeof *telling; i++)
    if (!strcmp(name, telling[i])) return 0;
  return !strncmp(name, "cu", 2) && name[2] >= 'A' && name[2] <= 'Z';
}

/* cuGetProcAddress in all its versions; the first takes one argument less, and whoever calls that passes what is in the register. There are
 * several in a driver (one that the linker binds, others that they give out themselves), and each is called as itself.
 */
typedef int asked(const char *, void **, int, uint64_t, void *);
static void *through(const char *name, void *function);
static void *asking[8];

static int answer(int number, const char *name, void **found, int cuda, uint64_t flags, void *status) {
  int code = ((asked *)asking[number])(name, found, cuda, flags, status);
  if (!code && found && *found) *found = through(name, *found);
  return code;
}

#define ASKER(number) \
  static int asker_##number(const char *name, void **found, int cuda, uint64_t flags, void *status) { \
    return answer(number, name, found, cuda, flags, status); \
  }
ASKER(0) ASKER(1) ASKER(2) ASKER(3) ASKER(4) ASKER(5) ASKER(6) ASKER(7)
static asked *const askers[] = {asker_0, asker_1, asker_2, asker_3, asker_4, asker_5, asker_6, asker_7};

static void *asker_for(void *function) {
  for (unsigned i = 0; i < sizeof askers / sizeof *askers; i++) {
    void *there = NULL;
    if (__atomic_compare_exchange_n(asking + i, &there, function, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) || there == function)
      return askers[i];
  }
  return function;
}

/* What a program gets in the place of the driver's own function. */
static void *through(const char *name, void *function) {
  if (!strncmp(name, "cuGetProcAddress", 16)) return asker_for(function);
  return wanted(name) ? stub_for(name, function) : function;
}

unsigned la_version(unsigned version) {
  opened();
  return version < LAV_CURRENT ? version : LAV_CURRENT;
}

unsigned la_objopen(struct link_map *map, Lmid_t space, uintptr_t *cookie) {
  const char *slash = strrchr(map->l_name, '/'), *name = slash ? slash + 1 : map->l_name;
  return LA_FLG_BINDFROM | (strncmp(name, "libcuda.so", 10) ? 0 : LA_FLG_BINDTO);
}

uintptr_t la_symbind64(Elf64_Sym *symbol, unsigned index, uintptr_t *from, uintptr_t *to, unsigned *flags, const char *name) {
  *flags |= LA_SYMB_NOPLTENTER | LA_SYMB_NOPLTEXIT;
  return (uintptr_t)through(name, (void *)symbol->st_value);
}
