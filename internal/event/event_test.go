package event

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type opened struct{ name string }
type closed struct{ name string }

func drain[T any](s *Subscription[T]) (got []T) {
	for {
		select {
		case v, ok := <-s.C():
			if !ok {
				return got
			}
			got = append(got, v)
		default:
			return got
		}
	}
}

func TestEventsReachTheSubscribersOfTheirType(t *testing.T) {
	b := New()
	first, second, other := Subscribe[opened](b, 4), Subscribe[opened](b, 4), Subscribe[closed](b, 4)
	Publish(b, opened{"a"})
	Publish(b, opened{"b"})
	Publish(b, closed{"c"})
	for _, s := range []*Subscription[opened]{first, second} {
		if got := fmt.Sprint(drain(s)); got != "[{a} {b}]" {
			t.Errorf("subscriber got %s, want [{a} {b}]", got)
		}
	}
	if got := fmt.Sprint(drain(other)); got != "[{c}]" {
		t.Errorf("subscriber of the other type got %s, want [{c}]", got)
	}
}

func TestTheStaticTypeDecides(t *testing.T) {
	b := New()
	asInterface, asValue := Subscribe[fmt.Stringer](b, 1), Subscribe[*strings.Builder](b, 1)
	Publish[fmt.Stringer](b, new(strings.Builder))
	if len(drain(asInterface)) != 1 || len(drain(asValue)) != 0 {
		t.Error("an event published as an interface must reach the subscribers of that interface alone")
	}
}

func TestFullSubscriberLosesTheOldest(t *testing.T) {
	b := New()
	slow, quick := Subscribe[int](b, 2), Subscribe[int](b, 10)
	for i := range 5 {
		Publish(b, i)
	}
	if got := fmt.Sprint(drain(slow)); got != "[3 4]" || slow.Dropped() != 3 {
		t.Errorf("slow subscriber got %s and dropped %d, want [3 4] and 3", got, slow.Dropped())
	}
	if got := fmt.Sprint(drain(quick)); got != "[0 1 2 3 4]" || quick.Dropped() != 0 {
		t.Errorf("quick subscriber got %s and dropped %d, want all five and 0", got, quick.Dropped())
	}
}

func TestCloseEndsDelivery(t *testing.T) {
	b := New()
	s, other := Subscribe[int](b, 4), Subscribe[int](b, 4)
	Publish(b, 1)
	s.Close()
	s.Close()
	Publish(b, 2)
	var got []int
	for v := range s.C() { // ends because the channel is closed
		got = append(got, v)
	}
	if fmt.Sprint(got) != "[1]" {
		t.Errorf("closed subscriber got %v, want [1]", got)
	}
	if got := fmt.Sprint(drain(other)); got != "[1 2]" {
		t.Errorf("the other subscriber got %s, want [1 2]", got)
	}
	other.Close()
	if n := len(*b.table.Load()); n != 0 {
		t.Errorf("%d types are still routed after the last Close", n)
	}
}

func TestNilBusTakesEvents(t *testing.T) {
	var b *Bus
	Publish(b, 1)
}

func TestSubscribeWithoutBufferPanics(t *testing.T) {
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "buffer of 0") {
			t.Errorf("recovered %v, want a panic that names the buffer", r)
		}
	}()
	Subscribe[int](New(), 0)
}

// Each publisher numbers its events; whatever is lost, every subscriber sees each publisher's numbers rise, and what it saw and what
// it lost add up.
func TestConcurrentPublishersAndSubscribers(t *testing.T) {
	const publishers, events, subscribers = 4, 500, 4
	type numbered struct{ publisher, n int }
	b := New()
	var readers, writers sync.WaitGroup
	subscriptions := make([]*Subscription[numbered], subscribers)
	for i := range subscriptions {
		s := Subscribe[numbered](b, 1+i*8)
		subscriptions[i] = s
		readers.Go(func() {
			last := [publishers]int{}
			seen := 0
			for v := range s.C() {
				if v.n <= last[v.publisher] {
					t.Errorf("event %d of publisher %d after its %d", v.n, v.publisher, last[v.publisher])
				}
				last[v.publisher] = v.n
				seen++
			}
			if total := seen + int(s.Dropped()); total != publishers*events {
				t.Errorf("saw %d and dropped %d, want %d together", seen, s.Dropped(), publishers*events)
			}
		})
	}
	for p := range publishers {
		writers.Go(func() {
			for n := 1; n <= events; n++ {
				Publish(b, numbered{p, n})
				if n%50 == 0 { // others come and go meanwhile
					Subscribe[numbered](b, 1).Close()
				}
			}
		})
	}
	writers.Wait()
	for _, s := range subscriptions {
		s.Close()
	}
	readers.Wait()
}

func TestPublishDoesNotAllocate(t *testing.T) {
	b := New()
	s := Subscribe[opened](b, 1)
	defer s.Close()
	if n := testing.AllocsPerRun(100, func() { Publish(b, opened{"a"}); Publish(b, closed{"b"}) }); n != 0 {
		t.Errorf("Publish allocates %v times", n)
	}
}

func BenchmarkPublish(b *testing.B) {
	bus := New()
	s := Subscribe[closed](bus, 1)
	defer s.Close()
	b.Run("no subscriber", func(b *testing.B) {
		for b.Loop() {
			Publish(bus, opened{"a"})
		}
	})
	b.Run("one full subscriber", func(b *testing.B) {
		for b.Loop() {
			Publish(bus, closed{"a"})
		}
	})
}
