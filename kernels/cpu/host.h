// host.h: what the machine is and has, as far as this process may use it.
#ifndef INFERNO_CPU_HOST_H
#define INFERNO_CPU_HOST_H

#include <stddef.h>
#include <stdint.h>

// The processor's model name.
void cpu_host_name(char *name, size_t bytes);
// Physical cores that this process may run on, at most its CPU quota rounded up; at least 1.
int cpu_host_cores(void);
// Bytes of memory in all and available now, within the memory limits of this process's control groups.
void cpu_host_memory(int64_t *total, int64_t *available);

#endif // INFERNO_CPU_HOST_H
