package memory

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSource is a device of `capacity` bytes.
type fakeSource struct {
	mu       sync.Mutex
	capacity int64
	live     map[device.Ptr]int64
	next     device.Ptr
}

func newSource(capacity int64) *fakeSource {
	return &fakeSource{capacity: capacity, live: map[device.Ptr]int64{}, next: 1 << 20}
}

func (s *fakeSource) Alloc(bytes int64) (device.Ptr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used()+bytes > s.capacity {
		return 0, device.ErrOutOfMemory
	}
	p := s.next
	s.next += device.Ptr(align(bytes) + Alignment)
	s.live[p] = bytes
	return p, nil
}

func (s *fakeSource) Free(p device.Ptr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.live[p]; !ok {
		panic(fmt.Sprintf("free of %#x, which is not allocated", uintptr(p)))
	}
	delete(s.live, p)
}

func (s *fakeSource) used() (bytes int64) {
	for _, n := range s.live {
		bytes += n
	}
	return bytes
}

func (s *fakeSource) PackBytes(t device.DType, rows, cols int) int64 {
	return int64(rows) * t.RowBytes(cols)
}

func newPool(t *testing.T, s *fakeSource, tr *Tracker, owner string, limit int64) *Pool {
	t.Helper()
	p, err := NewPool(PoolOptions{Source: s, Tracker: tr, Owner: owner, Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// checkIntegrity compares the pool's numbers with the tracker's, where the pool is its owner's only one.
func checkIntegrity(t *testing.T, p *Pool, tr *Tracker) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var sum int64
	for _, n := range p.held {
		sum += n
	}
	if !p.closed && (sum != p.limit || p.held[Reserved] != p.limit-p.used) {
		t.Errorf("pool holds %v, which is not %d of which %d are used", p.held, p.limit, p.used)
	}
	var tracked [NumPurposes]int64
	var total int64
	for _, o := range tr.Snapshot().Owners {
		for i, u := range o.ByPurpose {
			total += u.Current
			if o.Owner == p.owner {
				tracked[i] = u.Current
			}
		}
	}
	if tracked != p.held {
		t.Errorf("tracker holds %v for %s, the pool %v", tracked, p.owner, p.held)
	}
	if got := tr.Snapshot().Total.Current; got != total {
		t.Errorf("tracker's total is %d, its owners hold %d", got, total)
	}
}

func TestPoolHandsOutAlignedDisjointMemory(t *testing.T) {
	s, tr := newSource(1<<20), NewTracker(TrackerOptions{})
	p := newPool(t, s, tr, "llama", 10_000) // rounded up to 10240
	type span struct{ from, to device.Ptr }
	var spans []span
	for _, bytes := range []int64{1, 256, 257, 1000, 3000} {
		data, err := p.Alloc(Weights, bytes)
		if err != nil {
			t.Fatal(err)
		}
		if data%Alignment != 0 {
			t.Errorf("Alloc(%d) = %#x, not aligned to %d", bytes, uintptr(data), Alignment)
		}
		spans = append(spans, span{data, data + device.Ptr(bytes)})
		checkIntegrity(t, p, tr)
	}
	slices.SortFunc(spans, func(a, b span) int { return int(a.from) - int(b.from) })
	for i := range spans {
		if spans[i].from < p.base || spans[i].to > p.base+device.Ptr(p.limit) {
			t.Errorf("%v lies outside of the reservation", spans[i])
		}
		if i > 0 && spans[i].from < spans[i-1].to {
			t.Errorf("%v overlaps %v", spans[i], spans[i-1])
		}
	}
	if got, want := p.Available(), int64(10240-256-256-512-1024-3072); got != want {
		t.Errorf("Available() = %d, want %d", got, want)
	}
}

func TestPoolErrorsGiveTheNumbers(t *testing.T) {
	s, tr := newSource(1<<20), NewTracker(TrackerOptions{Limit: 1 << 19})
	p := newPool(t, s, tr, "llama", 2048)
	if _, err := p.Alloc(KV, 1024); err != nil {
		t.Fatal(err)
	}
	_, err := p.Alloc(Workspace, 1025)
	wantError(t, err, ErrLimit, "llama", "workspace", "1025", "1024 of 2048")
	_, err = p.Alloc(Workspace, math.MaxInt64)
	wantError(t, err, ErrLimit, "1024 of 2048")
	_, err = p.Alloc(Workspace, 0)
	wantError(t, err, nil, "0 bytes")
	_, err = p.Alloc(Reserved, 1)
	wantError(t, err, nil, "reserved")
	checkIntegrity(t, p, tr)

	if _, err = p.Alloc(Workspace, 1024); err != nil {
		t.Errorf("what is left must be there to the last byte: %v", err)
	}
	p.Close()
	_, err = p.Alloc(Input, 1)
	wantError(t, err, ErrClosed, "llama", "input")

	_, err = NewPool(PoolOptions{Source: s, Tracker: tr, Owner: "big", Limit: 1<<19 + 1})
	wantError(t, err, ErrLimit, "big", "524544", "0 of 524288 used")
	_, err = NewPool(PoolOptions{Source: newSource(100), Tracker: tr, Owner: "big", Limit: 512})
	wantError(t, err, device.ErrOutOfMemory, "big", "512")
	_, err = NewPool(PoolOptions{Source: s, Tracker: tr, Owner: "none"})
	wantError(t, err, nil, "none", "0 bytes")
	if got := tr.Snapshot(); got.Total.Current != 0 || len(got.Owners) != 0 {
		t.Errorf("after failures and a Close the tracker holds %+v", got)
	}
}

func wantError(t *testing.T, err, is error, contains ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", contains)
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("%q does not wrap %q", err, is)
	}
	for _, c := range contains {
		if !strings.Contains(err.Error(), c) {
			t.Errorf("%q does not say %q", err, c)
		}
	}
}

func TestCloseGivesEverythingBack(t *testing.T) {
	s, tr := newSource(1<<20), NewTracker(TrackerOptions{})
	first, second := newPool(t, s, tr, "a", 4096), newPool(t, s, tr, "b", 8192)
	if _, err := first.Alloc(Weights, 100); err != nil {
		t.Fatal(err)
	}
	first.Close()
	first.Close()
	checkIntegrity(t, first, tr)
	checkIntegrity(t, second, tr)
	snapshot := tr.Snapshot()
	if len(snapshot.Owners) != 1 || snapshot.Owners[0].Owner != "b" || snapshot.Total != (Usage{8192, 4096 + 8192}) {
		t.Errorf("after the first Close: %+v", snapshot)
	}
	second.Close()
	if len(s.live) != 0 {
		t.Errorf("the device still has %v", s.live)
	}
}

// Loads of several models and goroutines run beside each other.
func TestPoolsFromManyGoroutines(t *testing.T) {
	s, tr := newSource(1<<30), NewTracker(TrackerOptions{Limit: 1 << 30, AlertAt: 0.5})
	var wg sync.WaitGroup
	for i := range 3 {
		p := newPool(t, s, tr, fmt.Sprint("model", i), 1<<16)
		for g := range 4 {
			wg.Go(func() {
				for n := range 32 {
					_, err := p.Alloc(Purpose(1+(g+n)%(NumPurposes-1)), 512)
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Go(func() { tr.Snapshot(); p.Available() })
		t.Cleanup(func() { checkIntegrity(t, p, tr) })
	}
	wg.Wait()
	for _, o := range tr.Snapshot().Owners {
		if o.ByPurpose[Reserved].Current != 0 {
			t.Errorf("%s: %d bytes are left of a budget that was used up", o.Owner, o.ByPurpose[Reserved].Current)
		}
	}
}

func TestTrackerKeepsPeaks(t *testing.T) {
	tr := NewTracker(TrackerOptions{})
	for _, step := range []int64{100, 200} {
		if err := tr.Reserve("m", KV, step); err != nil {
			t.Fatal(err)
		}
	}
	tr.Release("m", KV, 250)
	tr.Move("m", KV, Workspace, 10)
	got := tr.Snapshot()
	want := OwnerUsage{Owner: "m"}
	want.ByPurpose[KV], want.ByPurpose[Workspace] = Usage{40, 300}, Usage{10, 10}
	if got.Total != (Usage{50, 300}) || len(got.Owners) != 1 || got.Owners[0] != want {
		t.Errorf("snapshot %+v, want %+v of 50, peak 300", got, want)
	}
}

func TestTrackerPanicsOnBytesThatNobodyHeld(t *testing.T) {
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "m released 11 bytes of kv") {
			t.Errorf("recovered %v", r)
		}
	}()
	tr := NewTracker(TrackerOptions{})
	if err := tr.Reserve("m", KV, 10); err != nil {
		t.Fatal(err)
	}
	tr.Release("m", KV, 11)
}

func TestAlertOncePerCrossing(t *testing.T) {
	bus := event.New()
	alerts := event.Subscribe[Alert](bus, 8)
	defer alerts.Close()
	tr := NewTracker(TrackerOptions{Limit: 1000, Bus: bus, AlertAt: 0.9, ClearAt: 0.8})
	for _, step := range []struct {
		bytes int64 // reserved, or released where negative
		want  string
	}{
		{899, ""},
		{1, "{true 900 1000 0.9}"},
		{50, ""},
		{-60, ""}, // 890: below the alert, above what clears it
		{60, ""},  // 950: no second alert
		{-150, ""},
		{-1, "{false 799 1000 0.8}"},
		{100, ""}, // 899
		{101, "{true 1000 1000 0.9}"},
		{-1000, "{false 0 1000 0.8}"},
	} {
		if step.bytes > 0 {
			if err := tr.Reserve("m", Weights, step.bytes); err != nil {
				t.Fatal(err)
			}
		} else {
			tr.Release("m", Weights, -step.bytes)
		}
		got := ""
		select {
		case a := <-alerts.C():
			got = fmt.Sprint(a)
		default:
		}
		if got != step.want {
			t.Errorf("after %+d: alert %q, want %q", step.bytes, got, step.want)
		}
	}
}

func TestTensorsAndWeights(t *testing.T) {
	s, tr := newSource(1<<20), NewTracker(TrackerOptions{})
	p := newPool(t, s, tr, "m", 1<<16)
	x, err := NewTensor(p, Activations, device.F32, 3, 100)
	if want := device.Matrix(p.base, device.F32, 3, 100); err != nil || x != want {
		t.Errorf("tensor %+v, %v, want %+v", x, err, want)
	}
	w, err := NewWeight(p, s, device.Q8_0, 10, 64)
	want := device.Weight{Data: p.base + 1280, DType: device.Q8_0, Rows: 10, Cols: 64}
	if err != nil || w != want {
		t.Errorf("weight %+v, %v, want %+v", w, err, want)
	}
	if got, want := p.Available(), int64(1<<16-1280-768); got != want {
		t.Errorf("%d bytes left, want %d", got, want)
	}
	_, err = NewTensor(p, Activations, device.Q4_0, 3, 64)
	wantError(t, err, nil, "Q4_0", "[3 64]")
	_, err = NewTensor(p, Activations, device.F32, 1<<30, 1<<30)
	wantError(t, err, nil, "F32", "elements")
	_, err = NewTensor(p, Activations, device.F32, 0, 5)
	wantError(t, err, nil, "[0 5]")
	_, err = NewTensor(p, Activations, device.F32, 1000, 1000)
	wantError(t, err, ErrLimit, "F32 tensor [1000 1000]", "4000000")
	_, err = NewWeight(p, s, device.Q8_0, 10, 65)
	wantError(t, err, nil, "Q8_0", "multiple of 32")
	_, err = NewWeight(p, s, device.I32, 10, 64)
	wantError(t, err, nil, "I32")
	_, err = NewWeight(p, s, device.F32, 1000, 1000)
	wantError(t, err, ErrLimit, "F32 weight [1000 1000]")
}

func TestPurposesHaveNames(t *testing.T) {
	for p := range NumPurposes {
		if name := Purpose(p).String(); name == "" || strings.Contains(name, "(") {
			t.Errorf("purpose %d is called %q", p, name)
		}
	}
	if got := Purpose(NumPurposes).String(); got != "Purpose(6)" {
		t.Errorf("a number that is no purpose is called %q", got)
	}
}
