package nvml

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/health"
)

func TestCUDAsNumbersBecomeTheDrivers(t *testing.T) {
	same := []card{{"H200", "GPU-aa1"}, {"H200", "GPU-aa2"}, {"H200", "GPU-b"}}
	mixed := []card{{"L4", "GPU-1"}, {"H200", "GPU-2"}}
	for name, c := range map[string]struct {
		cards   []card
		options Options
		want    int
		fault   string
	}{
		"the first":             {same, Options{}, 0, ""},
		"the third":             {same, Options{Ordinal: 2}, 2, ""},
		"beyond":                {same, Options{Ordinal: 3}, 0, "card 3 of 3"},
		"visible by number":     {same, Options{Ordinal: 1, Visible: "2, 1"}, 1, ""},
		"visible by UUID":       {same, Options{Visible: "GPU-aa2"}, 1, ""},
		"by a part of a UUID":   {same, Options{Visible: "GPU-b,0"}, 2, ""},
		"an unknown UUID":       {same, Options{Visible: "GPU-c"}, 0, "no card GPU-c"},
		"not visible":           {same, Options{Ordinal: 1, Visible: "0"}, 0, "has no card 1"},
		"a part of a card":      {same, Options{Visible: "MIG-1"}, 0, `names "MIG-1"`},
		"no number":             {same, Options{Visible: "1x"}, 0, `names "1x"`},
		"negative":              {same, Options{Visible: "-1"}, 0, "card -1"},
		"mixed":                 {mixed, Options{}, 0, "PCI_BUS_ID"},
		"mixed, as the driver":  {mixed, Options{Ordinal: 1, Order: "PCI_BUS_ID"}, 1, ""},
		"mixed, by UUID":        {mixed, Options{Visible: "GPU-2"}, 1, ""},
		"other order of a kind": {same, Options{Order: "FASTEST_FIRST"}, 0, ""},
	} {
		got, err := choose(c.cards, c.options)
		if c.fault == "" && (err != nil || got != c.want) {
			t.Errorf("%s: %d, %v, want %d", name, got, err, c.want)
		}
		if c.fault != "" && (!errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), c.fault)) {
			t.Errorf("%s: %v, want ErrAbsent and %q", name, err, c.fault)
		}
	}
}

func TestNoLibraryIsAbsent(t *testing.T) {
	if c, err := Open(Options{Library: filepath.Join(t.TempDir(), "libnvidia-ml.so.1")}); !errors.Is(err, ErrAbsent) {
		t.Errorf("%v, %v, want ErrAbsent", c, err)
	}
}

// fakeLibrary is a driver's library in C with one card, and of its functions only those that the argument defines beside the required.
const fakeLibrary = `
#include <string.h>
#include <unistd.h>
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { void *dev; unsigned long long type, data; unsigned gi, ci; } event;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int r) { return r ? "an error" : "success"; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = (void *)16; return i ? 2 : 0; }
int nvmlDeviceGetName(void *d, char *s, unsigned n) { strncpy(s, "Fake 9000", n); return 0; }
int nvmlDeviceGetUUID(void *d, char *s, unsigned n) { strncpy(s, "GPU-fake", n); return 0; }
`

const wholeLibrary = fakeLibrary + `
static int lost;
int nvmlDeviceGetMemoryInfo(void *d, memory *m) { m->total = 1000; m->used = 300; m->free = 700; return lost ? 15 : 0; }
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned *t) { *t = 61; return 0; }
int nvmlDeviceGetTemperatureThreshold(void *d, int which, unsigned *t) { *t = which == 1 ? 92 : 0; return 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *r) { *r = 64 | 4 | 128; return 0; }
int nvmlDeviceGetTotalEccErrors(void *d, int kind, int counter, unsigned long long *n) { *n = kind ? 3 : 5; return 0; }
int nvmlDeviceGetRemappedRows(void *d, unsigned *c, unsigned *u, unsigned *pending, unsigned *failed) {
  *c = *u = *failed = 0; *pending = 1; return 0;
}
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process;
int nvmlDeviceGetComputeRunningProcesses(void *d, unsigned *n, void *p) { return 3; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *n, process *p) {
  if (*n < 2 || !p) { *n = 2; return 7; }
  *n = 2;
  p[0] = (process){(unsigned)getpid(), 200, 0, 0};
  p[1] = (process){1, 70, 0, 0};
  return 0;
}
int nvmlEventSetCreate(void **s) { *s = (void *)32; return 0; }
int nvmlEventSetFree(void *s) { return 0; }
int nvmlDeviceGetSupportedEventTypes(void *d, unsigned long long *t) { *t = 8 | 2; return 0; }
int nvmlDeviceRegisterEvents(void *d, unsigned long long t, void *s) { return t == 8 ? 0 : 2; }
int nvmlEventSetWait_v2(void *s, event *e, unsigned ms) {
  static int calls;
  if (calls++ % 2) { lost = 1; return 10; }
  memset(e, 0, sizeof *e);
  e->type = 8; e->data = 79;
  return 0;
}
`

func build(t *testing.T, source string) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc to build a library with")
	}
	library := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	gcc := exec.Command("gcc", "-x", "c", "-shared", "-fPIC", "-w", "-o", library, "-")
	gcc.Stdin = strings.NewReader(source)
	if out, err := gcc.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return library
}

// alone runs the test in a process of its own, and returns false in the one that started it: the first library whose functions were called
// in a process stays the one that they lead to.
func alone(t *testing.T) bool {
	t.Helper()
	const variable = "NVML_TEST_ALONE"
	if os.Getenv(variable) == t.Name() {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("%s", out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v:\n%s", err, out)
	}
	return false
}

func TestReadingsAndEventsOfADriver(t *testing.T) {
	if !alone(t) {
		return
	}
	c, err := Open(Options{Library: build(t, wholeLibrary)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Read()
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != "Fake 9000" || r.UUID != "GPU-fake" || r.Temperature != 61 || r.Slowdown != 92 || len(r.Throttled) != 2 || r.Corrected != 5 ||
		r.Uncorrected != 3 || !r.RemapPending || r.RemapFailed || r.TotalBytes != 1000 || r.UsedBytes != 300 || r.OthersBytes != 70 ||
		r.Recovery != health.RecoveryNone {
		t.Errorf("reading %+v", r)
	}
	if e, ok, err := c.Wait(time.Millisecond); err != nil || !ok || e.XID != 79 {
		t.Errorf("event %v %v %v, want XID 79", e, ok, err)
	}
	if e, ok, err := c.Wait(time.Millisecond); err != nil || ok {
		t.Errorf("event %v %v %v, want none", e, ok, err)
	}
	if _, err := c.Read(); !errors.Is(err, health.ErrCardLost) {
		t.Errorf("off the bus: %v, want ErrCardLost", err)
	}
}

// TestOldDriverIsNotAskedWhatItDoesNotKnow: a call of a function that is not there would end the process.
func TestOldDriverIsNotAskedWhatItDoesNotKnow(t *testing.T) {
	if !alone(t) {
		return
	}
	if c, err := Open(Options{Library: build(t, fakeLibrary)}); !errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), "nvmlDeviceGetMemoryInfo") {
		t.Errorf("%v, %v, want ErrAbsent that names the missing function", c, err)
	}
	c, err := Open(Options{Library: build(t, fakeLibrary+"int nvmlDeviceGetMemoryInfo(void *d, memory *m) { m->used = 1; m->total = 2; return 0; }")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r, err := c.Read(); err != nil || r.UsedBytes != 1 || r.OthersBytes != -1 || r.Temperature != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, ok, err := c.Wait(time.Millisecond); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}

// TestCardOfThisHost holds readings against nvidia-smi's.
func TestCardOfThisHost(t *testing.T) {
	c, err := Open(Options{})
	if errors.Is(err, ErrAbsent) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Read()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", r)
	out, err := exec.Command("nvidia-smi", "--id="+r.UUID, "--format=csv,noheader,nounits",
		"--query-gpu=name,uuid,memory.total,temperature.gpu,ecc.errors.uncorrected.volatile.total,memory.used,memory.reserved").Output()
	if err != nil {
		t.Skipf("nvidia-smi: %v", err)
	}
	fields := strings.Split(strings.TrimSpace(string(out)), ", ")
	total, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if fields[0] != r.Name || fields[1] != r.UUID || r.TotalBytes>>20 < total-1024 || r.TotalBytes>>20 > total+1024 {
		t.Errorf("nvidia-smi says %q, the reading %+v", fields, r)
	}
	used, err := strconv.ParseInt(fields[5], 10, 64)
	reserved, notTold := strconv.ParseInt(fields[6], 10, 64) // by the driver, which a reading may count as used
	if got := r.UsedBytes >> 20; err != nil || notTold == nil && (got < used-1024 || got > used+reserved+1024) {
		t.Errorf("nvidia-smi says %d MiB used and %d reserved, the reading %d", used, reserved, got)
	}
	if temperature, err := strconv.Atoi(fields[3]); err == nil && (temperature < r.Temperature-15 || temperature > r.Temperature+15) {
		t.Errorf("nvidia-smi says %d °C, the reading %d", temperature, r.Temperature)
	}
	if errors, err := strconv.ParseUint(fields[4], 10, 64); err == nil && errors != r.Uncorrected {
		t.Errorf("nvidia-smi says %d uncorrected errors, the reading %d", errors, r.Uncorrected)
	}
	if _, ok, err := c.Wait(time.Millisecond); err != nil {
		t.Errorf("events: %v %v", ok, err)
	}
}
