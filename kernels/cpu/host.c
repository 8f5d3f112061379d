// host.c: /proc, /sys and control groups (version 2); where these are absent, what sysconf says.
#include "host.h"

#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// The text behind "key" and a colon in the first line of the file that starts with key.
static bool read_field(const char *path, const char *key, char *value, size_t bytes) {
  FILE *f = fopen(path, "re");
  if (!f) return false;
  char line[512];
  bool found = false;
  while (!found && fgets(line, sizeof line, f)) {
    char *colon = strchr(line, ':');
    if (!colon || strncmp(line, key, strlen(key)) != 0) continue;
    char *text = colon + 1;
    text += strspn(text, " \t");
    text[strcspn(text, "\n")] = 0;
    snprintf(value, bytes, "%s", text);
    found = true;
  }
  fclose(f);
  return found;
}

void cpu_host_name(char *name, size_t bytes) {
  if (read_field("/proc/cpuinfo", "model name", name, bytes) || read_field("/proc/cpuinfo", "Hardware", name, bytes)) return;
#if defined(__aarch64__)
  snprintf(name, bytes, "ARM64 CPU");
#else
  snprintf(name, bytes, "CPU");
#endif
}

static int64_t read_number(const char *path, int64_t otherwise) {
  FILE *f = fopen(path, "re");
  if (!f) return otherwise;
  int64_t n;
  if (fscanf(f, "%" SCNd64, &n) != 1) n = otherwise; // "max" is no limit
  fclose(f);
  return n;
}

// Calls visit with the folder of this process's control group and of each group around it.
static void visit_groups(void (*visit)(const char *folder, void *state), void *state) {
  char path[512];
  if (!read_field("/proc/self/cgroup", "0::", path, sizeof path)) return;
  char *group = path + strspn(path, ":"); // read_field stops at the first of the two colons
  for (;;) {
    char folder[640];
    snprintf(folder, sizeof folder, "/sys/fs/cgroup%s", group);
    visit(folder, state);
    char *slash = strrchr(group, '/');
    if (!slash || group[0] == 0) return;
    *slash = 0;
  }
}

typedef struct {
  int64_t total, available;
} memory_state;

static void limit_memory(const char *folder, void *state) {
  memory_state *m = state;
  char path[700];
  snprintf(path, sizeof path, "%s/memory.max", folder);
  int64_t max = read_number(path, -1);
  if (max < 0) return;
  snprintf(path, sizeof path, "%s/memory.current", folder);
  int64_t left = max - read_number(path, 0);
  if (max < m->total) m->total = max;
  if (left < m->available) m->available = left > 0 ? left : 0;
}

static int64_t meminfo_bytes(const char *key, int64_t otherwise) {
  char text[64];
  if (!read_field("/proc/meminfo", key, text, sizeof text)) return otherwise;
  return strtoll(text, NULL, 10) * 1024;
}

void cpu_host_memory(int64_t *total, int64_t *available) {
  int64_t physical = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
  memory_state m;
  m.total = meminfo_bytes("MemTotal", physical);
  m.available = meminfo_bytes("MemAvailable", m.total);
  visit_groups(limit_memory, &m);
  *total = m.total;
  *available = m.available;
}

// cpu.max holds "quota period" in microseconds, or "max period".
static void limit_cores(const char *folder, void *state) {
  int *cores = state;
  char path[700];
  snprintf(path, sizeof path, "%s/cpu.max", folder);
  FILE *f = fopen(path, "re");
  if (!f) return;
  int64_t quota, period;
  if (fscanf(f, "%" SCNd64 " %" SCNd64, &quota, &period) == 2 && period > 0) {
    int64_t whole = (quota + period - 1) / period;
    if (whole < *cores) *cores = whole > 1 ? (int)whole : 1;
  }
  fclose(f);
}

static int within_quota(int cores) {
  visit_groups(limit_cores, &cores);
  return cores > 1 ? cores : 1;
}

#if defined(__linux__)
// A core counts through its first sibling: "0,64" and "0-1" both begin with it.
static bool is_first_sibling(int processor, const cpu_set_t *allowed) {
  char path[128];
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", processor);
  int64_t first = read_number(path, processor);
  return first == processor || first < 0 || first >= CPU_SETSIZE || !CPU_ISSET((int)first, allowed);
}

int cpu_host_cores(void) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return within_quota((int)sysconf(_SC_NPROCESSORS_ONLN));
  int cores = 0;
  for (int i = 0; i < CPU_SETSIZE; i++) cores += CPU_ISSET(i, &allowed) && is_first_sibling(i, &allowed);
  return within_quota(cores);
}
#else
int cpu_host_cores(void) { return within_quota((int)sysconf(_SC_NPROCESSORS_ONLN)); }
#endif
