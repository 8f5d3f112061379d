// queue.h: what table.c needs of the queue beyond cpu.h. All of it is called by the thread that drives the device.
#ifndef INFERNO_CPU_QUEUE_H
#define INFERNO_CPU_QUEUE_H

#include "cpu.h"

// Starts dev->threads − 1 workers. False when there is no memory or no thread to be had.
bool cpu_pool_open(inferno_device *dev);
// Ends the workers and frees all lists and graphs; pending ops are dropped.
void cpu_pool_close(inferno_device *dev);

// Like cpu_enqueue, for an op so small that worker 0 is faster alone; it sees count 1.
void cpu_enqueue_solo(inferno_device *dev, cpu_op op, const void *args, int64_t args_bytes);
// Appends an op and returns room for its args, to be filled before the next call; NULL after cpu_fail.
void *cpu_append(inferno_device *dev, cpu_op op, bool solo, int64_t args_bytes);

bool cpu_has_pending(inferno_device *dev);
bool cpu_capturing(inferno_device *dev);
// Runs what is pending, then graph unless NULL, and returns when it is done. After a failure ops are dropped.
void cpu_launch(inferno_device *dev, inferno_graph *graph);
int32_t cpu_capture_begin(inferno_device *dev);
int32_t cpu_capture_end(inferno_device *dev, inferno_graph **graph);
void cpu_graph_free(inferno_device *dev, inferno_graph *graph);
int32_t cpu_status(inferno_device *dev, const char **reason);

#endif // INFERNO_CPU_QUEUE_H
