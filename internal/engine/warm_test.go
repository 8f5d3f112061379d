package engine

import (
	"runtime"
	"strings"
	"testing"
)

// What is read as the loop's code is all of each function, and hardly more.
func TestTheCodeOfTheLoopIsFound(t *testing.T) {
	bytes := uintptr(0)
	for _, c := range loopCode() {
		f := runtime.FuncForPC(uintptr(c.at))
		if f == nil || !strings.Contains(f.Name(), "internal/engine.(*") || c.bytes < cacheLine || c.bytes > 8<<10 {
			t.Errorf("%d bytes of code at %v, of %v", c.bytes, c.at, f)
			continue
		}
		if last := runtime.FuncForPC(uintptr(c.at) + c.bytes - cacheLine); last == nil || last.Entry() != f.Entry() {
			t.Errorf("%s: its code is said to be %d bytes long", f.Name(), c.bytes)
		}
		if next := runtime.FuncForPC(uintptr(c.at) + c.bytes); next != nil && next.Entry() == f.Entry() {
			t.Errorf("%s: its code goes on after %d bytes", f.Name(), c.bytes)
		}
		bytes += c.bytes
	}
	t.Logf("%d bytes", bytes)
	if bytes > 96<<10 { // more than there is to gain by; the race detector doubles it
		t.Errorf("%d bytes of code in all", bytes)
	}
}
