package backend

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/inferno-serve/inferno/internal/config"
)

// quietLoad is how long a load may take without a word.
const quietLoad = 2 * time.Second

// progress tells how far a load has come: by a bar on a terminal, elsewhere by a line each tenth, once it takes long.
type progress struct {
	name     string
	log      *slog.Logger
	terminal io.Writer // nil: none
	began    time.Time

	mu      sync.Mutex
	percent int64
	drawn   bool
}

func (b *backend) progress(name string) *progress {
	return &progress{name: name, log: b.log, terminal: b.o.Terminal, began: time.Now()}
}

// update is a model.Options.Progress.
func (p *progress) update(loaded, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	percent := loaded * 100 / max(total, 1)
	before := p.percent
	p.percent = percent
	took := time.Since(p.began)
	switch {
	case percent == before:
	case p.terminal != nil:
		const width = 40
		done := int(width * percent / 100)
		_, _ = fmt.Fprintf(p.terminal, "\rloading %s [%s%s] %s of %s\x1b[K", p.name, strings.Repeat("#", done), strings.Repeat(" ", width-done),
			config.Bytes(loaded).Short(), config.Bytes(total).Short())
		p.drawn = true
	case percent/10 > before/10 && took > quietLoad:
		p.log.Info("loading", "model", p.name, "percent", percent, "of", config.Bytes(total).Short(),
			"gb_per_s", fmt.Sprintf("%.1f", float64(loaded)/1e9/took.Seconds()))
	}
}

// end takes the bar away.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn {
		_, _ = io.WriteString(p.terminal, "\r\x1b[K")
	}
}
