package health

import (
	"context"
	"fmt"
	"sync"

	"github.com/inferno-serve/inferno/internal/event"
	"github.com/inferno-serve/inferno/internal/memory"
)

// Memory is the Provider of device memory: Degraded while an alert of the tracker stands.
type Memory struct {
	alerts  *event.Subscription[memory.Alert]
	changed func()

	mu   sync.Mutex
	last memory.Alert
}

// NewMemory listens to the alerts on bus; changed is called after each, usually Checker.Refresh.
func NewMemory(bus *event.Bus, changed func()) *Memory {
	return &Memory{alerts: event.Subscribe[memory.Alert](bus, 4), changed: changed}
}

// Run takes alerts until ctx ends.
func (m *Memory) Run(ctx context.Context) error {
	defer m.alerts.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case alert := <-m.alerts.C():
			m.mu.Lock()
			m.last = alert
			m.mu.Unlock()
			m.changed()
		}
	}
}

// Component names it.
func (m *Memory) Component() string { return "memory" }

// Health is Degraded while an alert stands: a full pool serves on, and the scheduler preempts.
func (m *Memory) Health(context.Context) (State, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last.Raised {
		return Degraded, fmt.Sprintf("%d of %d bytes of device memory in use", m.last.Used, m.last.Limit)
	}
	return Serving, ""
}
