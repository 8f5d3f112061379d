package main

import (
	"os"
	"runtime/debug"
	"syscall"
)

// crashBySignal has a crash print the stacks and end the process by SIGABRT. By itself the runtime would exit with 2, which says that
// restarting will not help. No core is left behind, which would hold prompts; GOTRACEBACK=crash in the environment asks for one.
func crashBySignal() {
	debug.SetTraceback("crash")
	if os.Getenv("GOTRACEBACK") == "crash" {
		return
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err != nil {
		return // then it is as the system has it
	}
	limit.Cur = 0
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &limit) // lowering one's own limit is always allowed
}
