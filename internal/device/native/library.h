// library.h: opening a device library at run time.
#ifndef INFERNO_LIBRARY_H
#define INFERNO_LIBRARY_H

#include <dlfcn.h>
#include <stdio.h>

#include "inferno.h"

// Whether all entries are there but the optional fused ops, which stand at the end.
static inline int is_complete(const inferno_table *t) {
  const void *const *entry = (const void *const *)(const void *)&t->open;
  const void *const *end = (const void *const *)(const void *)&t->rope_store_kv;
  while (entry < end && *entry) entry++;
  return entry == end;
}

// The table of the library at path, or NULL with the reason. A library stays open: its table may be in use.
static inline const inferno_table *open_library(const char *path, char *reason, size_t reason_bytes) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    snprintf(reason, reason_bytes, "%s", dlerror());
    return NULL;
  }
  const inferno_table *(*table)(void);
  *(void **)&table = dlsym(library, "inferno_device_table");
  const inferno_table *t = table ? table() : NULL;
  if (!t) {
    snprintf(reason, reason_bytes, table ? "inferno_device_table returns nothing" : "it has no inferno_device_table");
    dlclose(library);
  }
  return t;
}

#endif // INFERNO_LIBRARY_H
