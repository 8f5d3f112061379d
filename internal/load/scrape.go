package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// metrics are samples by name: those of one model, and those that have no model.
type metrics map[string]float64

const (
	maxMetricsBytes = 64 << 20
	scrapeTimeout   = 5 * time.Second
)

// scrape reads a page in Prometheus's text format 0.0.4.
func (g *Generator) scrape(ctx context.Context) (metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, g.o.MetricsURL, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	request.Header.Set("Accept", "text/plain;version=0.0.4")
	response, err := g.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: %s answers %s", g.o.MetricsURL, response.Status)
	}
	m, err := readMetrics(io.LimitReader(response.Body, maxMetricsBytes), g.o.Model)
	if err != nil {
		return nil, fmt.Errorf("metrics: %s: %w", g.o.MetricsURL, err)
	}
	return m, nil
}

// readMetrics adds up the series of each name that are of the model, or of no model. Of a histogram it keeps sum and count.
func readMetrics(r io.Reader, model string) (metrics, error) {
	m := metrics{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	found := false
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, of, value, err := readSample(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		found = found || of == model
		if of == "" || of == model {
			m[name] += value
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("no metrics of model %q", model)
	}
	return m, nil
}

// readSample takes `name{a="b",…} value [timestamp]` apart; model is the value of that label.
func readSample(line string) (name, model string, value float64, err error) {
	end := strings.IndexAny(line, "{ \t")
	if end <= 0 {
		return "", "", 0, fmt.Errorf("%.80q is no sample", line)
	}
	name, rest := line[:end], line[end:]
	if rest[0] == '{' {
		if model, rest, err = readLabels(rest[1:]); err != nil {
			return "", "", 0, fmt.Errorf("%s: %w", name, err)
		}
	}
	fields := strings.Fields(rest)
	if len(fields) < 1 || len(fields) > 2 {
		return "", "", 0, fmt.Errorf("%s: %.80q, want a value", name, rest)
	}
	if value, err = strconv.ParseFloat(fields[0], 64); err != nil {
		return "", "", 0, fmt.Errorf("%s: %.80q is no number", name, fields[0])
	}
	return name, model, value, nil
}

// readLabels reads up to the closing brace, and returns what stands behind it.
func readLabels(s string) (model, rest string, err error) {
	for {
		s = strings.TrimLeft(s, ", \t")
		if after, ended := strings.CutPrefix(s, "}"); ended {
			return model, after, nil
		}
		key, after, ok := strings.Cut(s, `="`)
		if !ok {
			return "", "", fmt.Errorf("labels end early at %.80q", s)
		}
		value, after, ok := readQuoted(after)
		if !ok {
			return "", "", fmt.Errorf("label %s has no end", key)
		}
		if key == "model" {
			model = value
		}
		s = after
	}
}

// readQuoted reads up to the closing quote; a backslash stands before it, itself and n.
func readQuoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], true
		case s[i] == '\\' && i+1 < len(s):
			i++
			if s[i] == 'n' {
				b.WriteByte('\n')
			} else {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}
