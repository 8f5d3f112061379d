package engine

import (
	"syscall"
	"time"
)

// pause sleeps that long, to some 60 µs, where the runtime's timers have a grain of a millisecond on an idle machine.
func pause(d time.Duration) {
	if d <= 0 {
		return
	}
	left := syscall.NsecToTimespec(int64(d))
	for syscall.Nanosleep(&left, &left) == syscall.EINTR {
	}
}

const timerSlack = 29 // PR_SET_TIMERSLACK

// sharpenPauses has the kernel end the thread's pauses when they are over, rather than within 50 µs of that. Best effort.
func sharpenPauses() { _, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, timerSlack, 1000, 0) }
