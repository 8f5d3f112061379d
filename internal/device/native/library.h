// library.h: opening a device library at run time.
#ifndef INFERNO_LIBRARY_H
#define INFERNO_LIBRARY_H

#include <dlfcn.h>
#include <stdio.h>

#include "inferno.h"

static inline int is_filled(const void *first, const void *end) {
  const void *const *entry = (const void *const *)first;
  while (entry < (const void *const *)end && *entry) entry++;
  return entry == (const void *const *)end;
}

// Whether all entries are there but the optional fused ops.
static inline int is_complete(const inferno_table *t) { return is_filled(&t->open, &t->rope_store_kv) && is_filled(&t->alloc_mapped, &t->dense); }

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
