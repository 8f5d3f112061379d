package auth

import (
	"math"
	"sync"
	"time"
)

// Limits are how much one identity may do; 0 means no limit.
type Limits struct {
	RequestsPerSecond float64 `yaml:"requests_per_second"` // calls but those of health; a second's worth may come at once
	TokensPerMinute   int64   `yaml:"tokens_per_minute"`   // prompts and outputs; a minute's worth may come at once
	Streams           int     `yaml:"streams"`             // calls of the role infer that run at a time
}

// Bounds of what is known of callers.
const (
	maxCallers = 1 << 16         // beyond, callers share one entry until others have been silent for a while
	forget     = 2 * time.Minute // longer than it takes a bucket to fill
)

// Caller is an identity and what it has used. All calls of an identity share one.
type Caller struct {
	*Identity
	use *use
}

// use outlives changes of the access file: nobody's minute begins anew by them.
type use struct {
	mu       sync.Mutex
	requests bucket
	tokens   bucket
	live     int
	seen     time.Time
}

// bucket is filled at a rate. A level below 0 is a debt: what a request costs is known only after it.
type bucket struct {
	level, capacity float64
	at              time.Time // 0: new, and full
}

// fill brings the bucket up to now.
func (b *bucket) fill(now time.Time, perSecond, capacity float64) {
	switch {
	case b.at.IsZero():
		b.level = capacity
	case capacity != b.capacity:
		b.level += capacity - b.capacity // a change of the limit leaves what was used
	}
	b.level = min(b.level+now.Sub(b.at).Seconds()*perSecond, capacity)
	b.at, b.capacity = now, capacity
}

// wait is the time until the level is at least want.
func (b *bucket) wait(want, perSecond float64) time.Duration {
	return time.Duration(math.Ceil((want - b.level) / perSecond * float64(time.Second)))
}

// Begin takes a call of this role, or says which limit forbids it. Each Begin without an error has an End.
func (c Caller) Begin(role Role) error {
	if role == Health { // whoever may ask has an answer, or an orchestrator would take the server for dead
		return nil
	}
	now, limits := time.Now(), &c.Limits
	c.use.mu.Lock()
	defer c.use.mu.Unlock()
	c.use.seen = now
	if role == Infer && limits.Streams > 0 && c.use.live >= limits.Streams {
		return &LimitError{"streams", float64(limits.Streams), time.Second}
	}
	if role == Infer && limits.TokensPerMinute > 0 {
		perSecond := float64(limits.TokensPerMinute) / 60
		if c.use.tokens.fill(now, perSecond, float64(limits.TokensPerMinute)); c.use.tokens.level < 1 {
			return &LimitError{"tokens_per_minute", float64(limits.TokensPerMinute), c.use.tokens.wait(1, perSecond)}
		}
	}
	if rate := limits.RequestsPerSecond; rate > 0 {
		if c.use.requests.fill(now, rate, max(rate, 1)); c.use.requests.level < 1 {
			return &LimitError{"requests_per_second", rate, c.use.requests.wait(1, rate)}
		}
		c.use.requests.level--
	}
	if role == Infer {
		c.use.live++
	}
	return nil
}

// End ends a call that Begin took.
func (c Caller) End(role Role) {
	if role == Infer {
		c.use.mu.Lock()
		c.use.live--
		c.use.mu.Unlock()
	}
}

// Charge counts tokens against the caller's minute; nobody's are not counted.
func (c Caller) Charge(tokens int) {
	if c.Identity == nil || c.Limits.TokensPerMinute == 0 || tokens == 0 {
		return
	}
	c.use.mu.Lock()
	defer c.use.mu.Unlock()
	c.use.tokens.fill(time.Now(), float64(c.Limits.TokensPerMinute)/60, float64(c.Limits.TokensPerMinute))
	c.use.tokens.level -= float64(tokens)
}

// ledger is what each caller has used, by key.
type ledger struct {
	mu    sync.Mutex
	uses  map[string]*use
	rest  use       // of those for whom there is no room
	swept time.Time // when those who were silent were last forgotten
}

func (l *ledger) of(key string) *use {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u := l.uses[key]; u != nil {
		return u
	}
	if len(l.uses) >= maxCallers && !l.sweep(time.Now()) {
		return &l.rest
	}
	u := &use{seen: time.Now()}
	l.uses[key] = u
	return u
}

// sweep forgets who was silent, at most once a second, and says whether there is room; mu is held.
func (l *ledger) sweep(now time.Time) bool {
	if now.Sub(l.swept) < time.Second {
		return false
	}
	l.swept = now
	for key, u := range l.uses {
		u.mu.Lock()
		u.tokens.fill(now, u.tokens.capacity/60, u.tokens.capacity)
		idle := u.live == 0 && now.Sub(u.seen) > forget && u.tokens.level >= 0
		u.mu.Unlock()
		if idle {
			delete(l.uses, key)
		}
	}
	return len(l.uses) < maxCallers
}

func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.uses)
}
