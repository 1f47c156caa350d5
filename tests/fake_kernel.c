/* fake_kernel ROOT kfd|drm: writes ROOT as the kernel would have it with the GPUs of fake_gpu.c, as long as its standard input is open:
 * files of amdkfd (topology, each process's bytes on each GPU) and of amdgpu (memory, work, hwmon); or hwmon and the accounts in fdinfo
 * of a GPU that is reached by OpenCL alone. A file or folder whose name is the call that fails
 * is not there.
 */
#include "fake_gpu.c"
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/stat.h>

#define FILES 1024
static struct { char path[256], value[640]; } files[FILES];
static const char *root;
static int drm;
static int seen[PROCESSES];

static int lacking(const char *path) { /* whether the file or a folder of its path is what is not there */
  char *at = *s->fail ? strstr(path, s->fail) : NULL;
  return at && at[-1] == '/' && strchr("/", at[strlen(s->fail)]);
}

static void put(const char *value, const char *format, ...) {
  char path[256], full[PATH_MAX], new[PATH_MAX + 4];
  va_list list;
  va_start(list, format), vsnprintf(path, sizeof path, format, list), va_end(list);
  int n = 0, room = -1, gone = lacking(path);
  for (; n < FILES && *files[n].path && strcmp(files[n].path, path); n++)
    if (*files[n].path == '-') room = n;
  if (n < FILES && !*files[n].path && room >= 0) n = room;
  if (n == FILES) abort();
  if (gone) value = "";
  if (!strcmp(files[n].path, path) && !strcmp(files[n].value, value)) return;
  strcpy(files[n].path, path), strcpy(files[n].value, value);
  snprintf(full, sizeof full, "%s%s", root, path), snprintf(new, sizeof new, "%s.new", full);
  if (gone) { /* with the folders that nothing is left in */
    unlink(full);
    for (char *slash = strrchr(full, '/'); slash > full + strlen(root) && (*slash = 0, !rmdir(full)); slash = strrchr(full, '/')) {}
    return;
  }
  for (char *slash = full + strlen(root); (slash = strchr(slash + 1, '/'));) *slash = 0, mkdir(full, 0755), *slash = '/';
  FILE *file = fopen(new, "w");
  if (!file) return;
  fprintf(file, "%s\n", value), fclose(file), rename(new, full);
}

static char text[640];
static const char *number(u64 value) { return sprintf(text, "%llu", value), text; }

static void device(int i) {
  struct gpu *g = &s->gpu[i];
  char at[96];
  int bus = 0x43 + 16 * i, id = 51000 + i, cut = *g->parent != 0; /* a partition is a node at the place of the whole */
  if (cut) bus = 0x43 + 16 * (i - 1);
  snprintf(at, sizeof at, "/sys/class/kfd/kfd/topology/nodes/%d", i + 1);
  u64 unique = strlen(g->uuid) == 20 ? strtoull(g->uuid + 4, NULL, 16) : 0;
  if (drm) {
    put(number(g->temperature * 1000), "/sys/bus/pci/devices/0000:%02x:00.0/hwmon/hwmon3/temp1_input", bus);
    put(number(g->power_mw * 1000ull), "/sys/bus/pci/devices/0000:%02x:00.0/hwmon/hwmon3/power1_input", bus);
    put(number(g->set_mw * 1000ull), "/sys/bus/pci/devices/0000:%02x:00.0/hwmon/hwmon3/power1_max", bus);
    return;
  }
  put(number(id), "%s/gpu_id", at);
  snprintf(text, sizeof text,
           "cpu_cores_count 0\nsimd_count 416\nsimd_per_cu 4\nwave_front_size 64\ngfx_target_version %d\nvendor_id 4098\nlocation_id %u\n"
           "domain 0\nunique_id %llu", s->chip ? s->chip : 90010, bus << 8 | (unsigned)(cut ? 1 : 0) << 28, unique);
  put(text, "%s/properties", at);
  if (cut) return;
  int parts = 1;
  for (int n = 0; n < s->gpus; n++) parts += !strcmp(s->gpu[n].parent, g->uuid) && *g->uuid;
  snprintf(at, sizeof at, "/sys/bus/pci/devices/0000:%02x:00.0", bus);
  put(g->name, "%s/product_name", at);
  put(parts > 1 ? "CPX" : "SPX", "%s/current_compute_partition", at);
  put(number(g->total), "%s/mem_info_vram_total", at);
  put(number(used(i)), "%s/mem_info_vram_used", at);
  put(number(fake_share(i)), "%s/gpu_busy_percent", at);
  put("edge", "%s/hwmon/hwmon3/temp1_label", at);
  put(number(g->temperature * 1000), "%s/hwmon/hwmon3/temp1_input", at);
  put("junction", "%s/hwmon/hwmon3/temp2_label", at);
  put(number(g->temperature * 1000 + 15000), "%s/hwmon/hwmon3/temp2_input", at);
  put(number(g->power_mw * 1000ull), "%s/hwmon/hwmon3/power1_average", at);
  put(number(g->set_mw * 1000ull), "%s/hwmon/hwmon3/power1_cap", at);
  put(number(1700000000), "%s/hwmon/hwmon3/freq1_input", at);
}

static void left(int pid) { /* its folder goes with the process */
  char full[PATH_MAX], at[128];
  for (int n = 0; n < FILES; n++) {
    snprintf(at, sizeof at, drm ? "/proc/%d/fdinfo/" : "/sys/class/kfd/kfd/proc/%d/", pid);
    if (strncmp(files[n].path, at, strlen(at))) continue;
    snprintf(full, sizeof full, "%s%s", root, files[n].path), unlink(full);
    if (drm) snprintf(full, sizeof full, "%s/proc/%d/fd/%s", root, pid, strrchr(files[n].path, '/') + 1), unlink(full);
    strcpy(files[n].path, "-");
  }
  for (int n = 0; drm && n < 3; n++) snprintf(full, sizeof full, "%s/proc/%d%s", root, pid, (const char *[]){"/fd", "/fdinfo", ""}[n]), rmdir(full);
  snprintf(full, sizeof full, "%s/sys/class/kfd/kfd/proc/%d", root, pid), rmdir(full);
}

/* what it has open, once under two numbers, and what that took */
static void opened(int pid, int shown) {
  char path[PATH_MAX];
  for (int i = 0; i < s->gpus; i++) {
    u64 bytes = 0, ns = 0;
    int on = 0;
    for (int m = 0; m < PROCESSES; m++)
      if (s->process[m].pid == pid && s->process[m].gpu == i) on = 1, bytes += s->process[m].bytes;
    for (int m = 0; m < TIMES; m++) {
      struct busy *b = &s->busy[m];
      double to = b->to < now() ? b->to : now();
      if (b->pid == pid && b->gpu == i && to > b->from) ns += (to - b->from) * 1e9;
    }
    for (int n = 3; on && n < 5; n++) {
      int used = snprintf(text, sizeof text, "pos:\t0\ndrm-driver:\txe\ndrm-pdev:\t0000:%02x:00.0\ndrm-client-id:\t%d\n", 0x43 + 16 * i, pid);
      if (!s->untold) sprintf(text + used, "drm-total-vram0:\t%llu KiB\ndrm-engine-ccs:\t%llu ns\ndrm-engine-capacity-ccs:\t4", bytes >> 10, ns);
      put(text, "/proc/%d/fdinfo/%d", shown, 10 * i + n);
      snprintf(path, sizeof path, "%s/proc/%d/fd", root, shown), mkdir(path, 0755);
      snprintf(path, sizeof path, "%s/proc/%d/fd/%d", root, shown, 10 * i + n);
      if (symlink("/dev/dri/renderD128", path)) {}
    }
  }
}

static void accounts(void) {
  int now[PROCESSES] = {0};
  for (int n = 0; n < PROCESSES; n++)
    if (s->process[n].pid) now[n] = s->process[n].pid + s->host;
  for (int n = 0; n < PROCESSES; n++) {
    int still = 0;
    for (int m = 0; m < PROCESSES; m++) still |= now[m] == seen[n];
    if (seen[n] && !still) left(seen[n]);
  }
  memcpy(seen, now, sizeof seen);
  for (int n = 0; n < PROCESSES; n++)
    if (drm && now[n]) opened(s->process[n].pid, now[n]);
  for (int n = 0; n < PROCESSES; n++)
    for (int i = 0; now[n] && !drm && i < s->gpus; i++) { /* a file for each GPU, whether it is used or not */
      u64 bytes = 0;
      for (int m = 0; m < PROCESSES; m++)
        if (now[m] == now[n] && s->process[m].gpu == i) bytes += s->process[m].bytes;
      put(number(bytes), "/sys/class/kfd/kfd/proc/%d/vram_%d", now[n], 51000 + i);
    }
}

int main(int count, char **arguments) {
  struct pollfd input = {0, POLLIN, 0};
  if (count != 3 || !there()) return 2;
  root = arguments[1], drm = !strcmp(arguments[2], "drm");
  do {
    int asked = s->asked;
    if (!drm) {
      put("0", "/sys/class/kfd/kfd/topology/nodes/0/gpu_id");
      put("cpu_cores_count 16\nsimd_count 0", "/sys/class/kfd/kfd/topology/nodes/0/properties");
      put("none", "/sys/class/kfd/kfd/proc/1/pasid");
    }
    lock();
    for (int i = 0; i < s->gpus; i++) device(i);
    accounts();
    unlock();
    s->written = asked;
  } while (!poll(&input, 1, 4));
  return 0;
}
