package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// driver is a Card whose answers a test sets.
type driver struct {
	reading atomic.Pointer[Reading]
	err     atomic.Pointer[error]
	hang    chan struct{} // Read waits for it, where set
	events  chan CardEvent
	closed  atomic.Bool
}

func (d *driver) Read() (Reading, error) {
	if d.hang != nil {
		<-d.hang
	}
	if err := d.err.Load(); err != nil {
		return Reading{}, *err
	}
	return *d.reading.Load(), nil
}

func (d *driver) Wait(limit time.Duration) (CardEvent, bool, error) {
	select {
	case e := <-d.events:
		return e, true, nil
	case <-time.After(limit):
		return CardEvent{}, false, nil
	}
}

func (d *driver) Close() { d.closed.Store(true) }

func well() Reading {
	return Reading{Temperature: 50, Slowdown: 90, Uncorrected: 7, TotalBytes: 80 << 30, UsedBytes: 70 << 30, OthersBytes: -1}
}

// watched runs a GPU until the returned function is called.
func watched(t *testing.T, d *driver) (g *GPU, losses *[]error, stop func()) {
	t.Helper()
	losses = &[]error{}
	g = NewGPU(GPUOptions{
		Card: d, Log: slog.New(slog.DiscardHandler), Changed: func() {}, Lost: func(err error) { *losses = append(*losses, err) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func(g *GPU) { defer close(done); _ = g.Run(ctx) }(g)
	return g, losses, func() { cancel(); <-done }
}

func TestReadingsThatNeedALookDegrade(t *testing.T) {
	for reason, change := range map[string]func(*Reading){
		"":                                       func(*Reading) {},
		"clocks lowered: heat":                   func(r *Reading) { r.Throttled = []string{"heat"} },
		"90 °C, and clocks are lowered from 90":  func(r *Reading) { r.Temperature = 90 },
		"2 uncorrected ECC errors":               func(r *Reading) { r.Uncorrected += 2 },
		"could not be remapped":                  func(r *Reading) { r.RemapFailed = true },
		"at the next reset":                      func(r *Reading) { r.RemapPending = true },
		"the driver says: reset the card":        func(r *Reading) { r.Recovery = RecoveryReset },
		"other processes hold 1024 MiB of the c": func(r *Reading) { r.OthersBytes, r.UsedBytes = 1<<30, 80<<30-100<<20 },
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &driver{events: make(chan CardEvent)}
			r := well()
			d.reading.Store(&r)
			g, _, stop := watched(t, d)
			synctest.Wait()
			if state, why := g.Health(t.Context()); state != Serving || why != "" {
				t.Errorf("well: %v %q", state, why)
			}
			changed := well()
			change(&changed)
			d.reading.Store(&changed)
			time.Sleep(readEvery + time.Millisecond)
			want := Degraded
			if reason == "" {
				want = Serving
			}
			if state, why := g.Health(t.Context()); state != want || !strings.Contains(why, reason) {
				t.Errorf("%v %q, want %v %q", state, why, want, reason)
			}
			d.reading.Store(&r)
			time.Sleep(readEvery)
			if state, why := g.Health(t.Context()); state != Serving {
				t.Errorf("well again: %v %q", state, why)
			}
			stop()
			if !d.closed.Load() {
				t.Error("the card was not closed")
			}
		})
	}
}

// TestXIDsByWhatTheyMean: those that NVIDIA's own plugin for Kubernetes takes for a process's fault do not end the server, nor do notices.
func TestXIDsByWhatTheyMean(t *testing.T) {
	survived := map[int]bool{13: true, 31: true, 43: true, 45: true, 68: true, 109: true, 63: true, 92: true, 154: true}
	for xid := 1; xid <= 200; xid++ {
		synctest.Test(t, func(t *testing.T) {
			d := &driver{events: make(chan CardEvent)}
			r := well()
			d.reading.Store(&r)
			g, losses, stop := watched(t, d)
			synctest.Wait()
			d.events <- CardEvent{XID: xid}
			synctest.Wait()
			state, why := g.Health(t.Context())
			if survived[xid] != (state == Degraded) || survived[xid] != (len(*losses) == 0) || !strings.Contains(why, fmt.Sprintf("XID %d", xid)) {
				t.Errorf("XID %d: %v %q, losses %v", xid, state, why, *losses)
			}
			time.Sleep(eventShown + time.Second)
			if state, why := g.Health(t.Context()); survived[xid] != (state == Serving) {
				t.Errorf("XID %d, a minute later: %v %q", xid, state, why)
			}
			if _, xids, ok := g.Reading(); !ok || xids[xid] != 1 {
				t.Errorf("XID %d was counted as %v", xid, xids)
			}
			stop()
		})
	}
}

func TestLostCardIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &driver{events: make(chan CardEvent)}
		lost := fmt.Errorf("%w: memory: gone", ErrCardLost)
		d.err.Store(&lost)
		g, losses, stop := watched(t, d)
		time.Sleep(5 * readEvery)
		if state, why := g.Health(t.Context()); state != NotServing || !strings.Contains(why, "gone") {
			t.Errorf("%v %q", state, why)
		}
		if len(*losses) != 1 || !errors.Is((*losses)[0], ErrCardLost) {
			t.Errorf("lost %v, want once", *losses)
		}
		stop()
	})
}

func TestDriverThatFailsOrHangsDegrades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &driver{events: make(chan CardEvent), hang: make(chan struct{}, 1)}
		r := well()
		d.reading.Store(&r)
		g, _, stop := watched(t, d)
		d.hang <- struct{}{}
		synctest.Wait()
		if state, why := g.Health(t.Context()); state != Serving {
			t.Errorf("%v %q", state, why)
		}
		time.Sleep(readingOld + time.Second)
		if state, why := g.Health(t.Context()); state != Degraded || !strings.Contains(why, "not answered since") {
			t.Errorf("a driver that hangs: %v %q", state, why)
		}
		began := time.Now()
		stop() // does not wait for the driver
		if took := time.Since(began); took > leaveBehind {
			t.Errorf("the end took %v", took)
		}
		close(d.hang)
		synctest.Wait()

		failed := errors.New("unknown error")
		d.err.Store(&failed)
		g, losses, stop := watched(t, d)
		synctest.Wait()
		if state, why := g.Health(t.Context()); state != Degraded || !strings.Contains(why, "unknown error") || len(*losses) > 0 {
			t.Errorf("a driver that fails: %v %q", state, why)
		}
		stop()
	})
}

func TestAbsentCardIsNoFault(t *testing.T) {
	g := NewGPU(GPUOptions{Ordinal: 3, Absent: "no driver"})
	if err := g.Run(t.Context()); err != nil {
		t.Error(err)
	}
	if state, why := g.Health(t.Context()); state != Serving || why != "absent: no driver" || g.Component() != "gpu/3" {
		t.Errorf("%s: %v %q", g.Component(), state, why)
	}
	if _, _, ok := g.Reading(); ok {
		t.Error("an absent card has a reading")
	}
}
