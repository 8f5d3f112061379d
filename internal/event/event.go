// Package event is the typed bus on which packages tell what happened without knowing who listens. It knows no event type: an event
// is a plain value, published and subscribed to by its Go type.
//
// Contract
//   - Publish never blocks, whatever subscribers do, and may be called from any goroutine, also under the publisher's own lock:
//     the bus calls nobody back.
//   - A subscriber whose buffer is full loses its oldest event, so that the latest always arrives, and Dropped counts the loss.
//   - Events of one publishing goroutine arrive in the order of their publication. Nothing is said about events of several.
//   - A subscriber sees what is published after Subscribe returned and before Close was called; there is no history.
//   - The type is the static one: a subscriber of an interface type sees what was published as that interface, not as its
//     implementations.
//   - Nothing on the path of a token goes over the bus.
package event

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
)

// Bus connects publishers to subscribers. A nil Bus has no subscribers and takes any event.
type Bus struct {
	mu    sync.Mutex             // serialises changes of table
	table atomic.Pointer[routes] // replaced as a whole, never changed in place
}

// routes holds the subscriptions to each type: *Subscription[T] under the type T.
type routes map[reflect.Type][]any

// New makes a bus without subscribers.
func New() *Bus { return &Bus{} }

// Publish gives v to every subscriber of its type. Without one it costs a lookup.
func Publish[T any](b *Bus, v T) {
	if b == nil {
		return
	}
	table := b.table.Load()
	if table == nil {
		return
	}
	for _, s := range (*table)[reflect.TypeFor[T]()] {
		s.(*Subscription[T]).deliver(v)
	}
}

// Subscription receives the events of one type until it is closed.
type Subscription[T any] struct {
	bus     *Bus
	dropped atomic.Uint64

	mu     sync.Mutex // taken by deliver and Close; nothing under it waits
	events chan T
	closed bool
}

// Subscribe receives events of type T from now on, of which up to `buffer` (at least 1) wait for the reader.
func Subscribe[T any](b *Bus, buffer int) *Subscription[T] {
	if buffer < 1 {
		panic(fmt.Sprintf("event: Subscribe[%v] with a buffer of %d, want at least 1", reflect.TypeFor[T](), buffer))
	}
	s := &Subscription[T]{bus: b, events: make(chan T, buffer)}
	b.change(reflect.TypeFor[T](), func(subscribers []any) []any { return append(subscribers, s) })
	return s
}

// C is where the events arrive. It is closed by Close, after which what was buffered can still be read.
func (s *Subscription[T]) C() <-chan T { return s.events }

// Dropped is how many events were lost because the reader was slow.
func (s *Subscription[T]) Dropped() uint64 { return s.dropped.Load() }

// Close ends the subscription. Idempotent; a Publish that runs at the same time either delivers before or not at all.
func (s *Subscription[T]) Close() {
	s.bus.change(reflect.TypeFor[T](), func(subscribers []any) []any {
		return slices.DeleteFunc(subscribers, func(other any) bool { return other == any(s) })
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.events)
	}
}

// deliver ends after two rounds at most: the lock keeps other senders out, so that the room it makes stays.
func (s *Subscription[T]) deliver(v T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed {
		select {
		case s.events <- v:
			return
		default:
		}
		select {
		case <-s.events:
			s.dropped.Add(1)
		default: // the reader has just taken it
		}
	}
}

// change replaces the table by a copy in which edit has changed a copy of t's subscribers.
func (b *Bus) change(t reflect.Type, edit func([]any) []any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := routes{}
	if table := b.table.Load(); table != nil {
		next = maps.Clone(*table)
	}
	if next[t] = edit(slices.Clone(next[t])); len(next[t]) == 0 {
		delete(next, t)
	}
	b.table.Store(&next)
}
