package engine

import "sync"

// shares counts who waits for a first step, by tenant, so that one cannot keep the others out by filling the queue. Submit adds, and the loop
// takes away: for a request, never for a step.
type shares struct {
	mu     sync.Mutex
	queued map[string]int // requests, of tenants that have some
}

// crowd is how far over its bounds the queue may get by requests of tenants that have few in it.
const crowd = 2

func (s *shares) add(tenant string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queued == nil {
		s.queued = map[string]int{}
	}
	s.queued[tenant] += n
	if s.queued[tenant] == 0 {
		delete(s.queued, tenant)
	}
}

// modest says whether others wait too, and n more requests leave a tenant within what each of them could have of a queue of that length.
func (s *shares) modest(tenant string, n, length int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	own, others := s.queued[tenant], len(s.queued)
	if own > 0 {
		others--
	}
	return others > 0 && own+n <= max(length/(others+1), 1)
}
