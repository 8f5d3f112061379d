//go:build unix

package load

import (
	"syscall"
	"time"
)

// processCPU is the CPU time of this process so far, the system's for it included.
func processCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
